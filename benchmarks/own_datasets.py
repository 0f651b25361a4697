"""What a user's own `tf.data.Dataset` costs in `fit`, by its autotuner.

    python -m benchmarks.own_datasets

Trains the dense network of sine5 on the same meta-batches in three datasets, in
turn: as a user writes it, and with TensorFlow's autotuner set to off and to on.
`MetaModel.fit` leaves alone what is set. Prints a table.
"""

import statistics
import time

import keras
import numpy as np
import tensorflow as tf
from absl import app
from absl import flags

import keras_maml
from benchmarks import workloads

FLAGS = flags.FLAGS
flags.DEFINE_list("steps", ["300", "1000", "4000"], "Steps of a `fit`.")
flags.DEFINE_integer("rounds", 5, "How often each is timed.", lower_bound=1)

AUTOTUNERS = {"as written": None, "set to off": False, "set to on": True}


def make_dataset(workload, autotuner):
    """An endless dataset of eight meta-batches."""
    batches = [workloads.make_meta_batch(workload, seed) for seed in range(8)]
    arrays = tf.nest.map_structure(lambda *t: np.concatenate(t), *batches)
    dataset = tf.data.Dataset.from_tensor_slices(arrays)
    dataset = dataset.batch(workload.tasks, drop_remainder=True).repeat()
    options = tf.data.Options()
    if autotuner is not None:
        options.autotune.enabled = autotuner
    return dataset.with_options(options)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Arguments that are not flags: {argv[1:]}")
    keras_maml.configure_threads()
    workload = workloads.WORKLOADS["sine5"]
    models = {}
    for name in AUTOTUNERS:
        # A model for each: TensorFlow traces a step again for another dataset.
        models[name] = keras_maml.MetaModel(
            workloads.make_learner(workload),
            inner_optimizer=workload.inner_rate,
            inner_steps=workload.inner_steps,
        )
        models[name].compile(keras.optimizers.Adam(), "mse")
        dataset = make_dataset(workload, AUTOTUNERS[name])
        models[name].fit(dataset, steps_per_epoch=10, verbose=0)
    print(f"| steps | {' | '.join(AUTOTUNERS)} |")
    print(f"|---|{'---|' * len(AUTOTUNERS)}")
    for steps in map(int, FLAGS.steps):
        times = {name: [] for name in AUTOTUNERS}
        for _ in range(FLAGS.rounds):
            for name, autotuner in AUTOTUNERS.items():
                dataset = make_dataset(workload, autotuner)
                started = time.perf_counter()
                models[name].fit(dataset, steps_per_epoch=steps, verbose=0)
                times[name].append((time.perf_counter() - started) / steps)
        cells = [
            f"{statistics.median(t) * 1e3:.2f} ({max(t) * 1e3:.2f})"
            for t in times.values()
        ]
        print(f"| {steps} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    app.run(main)
