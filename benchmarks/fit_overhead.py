"""What `fit` costs beside the step itself: the input pipeline, Keras, Python.

    python -m benchmarks.fit_overhead

Trains on episodes that are drawn from a pool of images as they are needed, by
`fit`, and on one meta-batch that is in place, by the bare compiled step; in
turn, for several rounds. Prints a table for docs/performance.md.
"""

import statistics
import time

import keras
import numpy as np
import tensorflow as tf
from absl import app
from absl import flags

import keras_maml
from benchmarks import report
from benchmarks import workloads

FLAGS = flags.FLAGS
flags.DEFINE_list(
    "workloads", ["omni5w1s", "omni20w1s", "mini5w1s"], "What is timed."
)
flags.DEFINE_integer("rounds", 5, "How often both are timed.", lower_bound=1)
flags.DEFINE_float("seconds", 4.0, "About how long each of them is timed.")


def episodes(workload):
    """An endless stream of meta-batches of random images."""
    rng = np.random.default_rng(0)
    shape = (64 * 20, *workload.image)
    pool = keras_maml.tasks.from_arrays(
        rng.standard_normal(shape, dtype="float32"), np.repeat(range(64), 20)
    )
    return pool.episodes(
        workload.n_way, workload.support, workload.query, seed=0
    ).batch(workload.tasks)


def measure(workload):
    """Median seconds of a bare step, and of one of `fit`."""
    meta_model = keras_maml.MetaModel(
        workloads.make_learner(workload),
        inner_optimizer=workload.inner_rate,
        inner_steps=workload.inner_steps,
    )
    meta_model.compile(
        optimizer="adam",
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    dataset = episodes(workload)
    batch = next(iter(dataset))
    meta_model.fit(dataset, steps_per_epoch=2, shuffle=False, verbose=0)
    # What `fit` runs, less its loop over an iterator.
    bare = tf.function(lambda: meta_model.train_step(batch), autograph=False)
    bare()
    started = time.perf_counter()
    bare()
    count = max(2, round(FLAGS.seconds / (time.perf_counter() - started)))
    times = {"bare": [], "fit": []}
    for _ in range(FLAGS.rounds):
        started = time.perf_counter()
        for _ in range(count):
            logs = bare()
        float(logs["loss"])
        times["bare"].append((time.perf_counter() - started) / count)
        started = time.perf_counter()
        meta_model.fit(dataset, steps_per_epoch=count, shuffle=False, verbose=0)
        times["fit"].append((time.perf_counter() - started) / count)
    return statistics.median(times["bare"]), statistics.median(times["fit"])


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Arguments that are not flags: {argv[1:]}")
    keras_maml.configure_threads()
    print("| workload | bare step | step of `fit` | overhead |")
    print("|---|---|---|---|")
    for name in FLAGS.workloads:
        bare, fit = measure(workloads.WORKLOADS[name])
        print(
            f"| {name} | {report.seconds(bare)} | {report.seconds(fit)} | "
            f"{fit / bare - 1:+.1%} |",
            flush=True,
        )


if __name__ == "__main__":
    app.run(main)
