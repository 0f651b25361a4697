"""Times the forms of the map over tasks on dense networks.

    python -m benchmarks.task_forms
    python -m benchmarks.task_forms --networks=64-64:10:5:25 --seconds=5

A network is "units:points:inner steps:tasks". Prints a table of the
milliseconds a step, without the input pipeline, and what "auto" takes.
"""

import itertools
import statistics
import time

import keras
import tensorflow as tf
from absl import app
from absl import flags

import keras_maml
from benchmarks import workloads
from keras_maml.engine import task_forms
from keras_maml.engine.task_map import FORMS

FLAGS = flags.FLAGS
flags.DEFINE_list(
    "networks",
    [
        "20-20:10:5:25",
        "20-20-20-20:10:5:25",
        "40-40:10:1:25",
        "40-40:10:5:25",
        "40-40:10:10:25",
        "40-40:100:5:25",
        "48-48-48:20:5:25",
        "64-64:10:1:25",
        "64-64:10:5:25",
        "64-64:200:3:8",
        "80-80:10:5:25",
        "128-128:20:1:25",
        "128-128:20:5:25",
        "128-128:20:10:25",
        "256-256:100:5:8",
        "256-256-256:20:5:25",
        "512-512:10:1:25",
        "512-512-512-512:10:5:8",
    ],
    "What is timed.",
)
flags.DEFINE_bool("first_order", False, "First-order MAML.")
flags.DEFINE_float("seconds", 2.0, "About how long each form is timed.")


def make_step(network, form):
    """The compiled step of a form, on one meta-batch, and the learner."""
    units, points, inner_steps, tasks = network.split(":")
    workload = workloads.Workload(
        int(tasks), int(inner_steps), 0.01, int(points), int(points), 0
    )
    learner = keras.Sequential([keras.Input((1,))])
    for width in units.split("-"):
        learner.add(keras.layers.Dense(int(width), activation="relu"))
    learner.add(keras.layers.Dense(1))
    meta_model = keras_maml.MetaModel(
        learner,
        inner_optimizer=workload.inner_rate,
        inner_steps=workload.inner_steps,
        meta_gradient=keras_maml.meta_gradients.FirstOrder()
        if FLAGS.first_order
        else "second_order",
        task_map=form,
    )
    # Hardly moves, so that no network diverges.
    meta_model.compile(keras.optimizers.Adam(1e-6), "mse")
    batch = workloads.make_meta_batch(workload, seed=0)

    @tf.function(autograph=False)
    def step():
        return meta_model.train_step(batch)

    return step, meta_model


def measure(step):
    """The median of the milliseconds of a step."""
    step()
    times = []
    started = time.perf_counter()
    while time.perf_counter() - started < FLAGS.seconds or len(times) < 5:
        before = time.perf_counter()
        step()
        times.append(time.perf_counter() - before)
    return statistics.median(times) * 1e3


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Arguments that are not flags: {argv[1:]}")
    keras_maml.configure_threads()
    columns = itertools.chain(
        ["units", "points", "inner steps", "tasks"], FORMS
    )
    print(f'| {" | ".join(columns)} | `"auto"` is | of the fastest |')
    print("|---|---|---|---|---|---|---|---|---|")
    for network in FLAGS.networks:
        times = {}
        for form in FORMS:
            step, meta_model = make_step(network, form)
            times[form] = measure(step)
        auto = task_forms.fastest(
            meta_model.learner,
            1 if FLAGS.first_order else meta_model.inner_steps,
        )
        cells = network.split(":") + [f"{t:.2f}" for t in times.values()]
        ratio = times[auto] / min(times.values())
        print(f"| {' | '.join(cells)} | {auto} | {ratio:.2f}× |", flush=True)


if __name__ == "__main__":
    app.run(main)
