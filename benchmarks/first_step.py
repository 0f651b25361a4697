"""Measures the first step: tracing, TensorFlow's optimizers, compilers.

    python -m benchmarks.first_step
    python -m benchmarks.first_step --models=mlp,conv4 --inner_steps=2,5,20

Each model has a process of its own. Prints a table of processor seconds of the
first `train_on_batch`, the same without those of a later one, and the time of
both on the clock.
"""

import json
import os
import statistics
import subprocess
import sys
import time

from absl import app
from absl import flags

# The inner steps of each model, where `--inner_steps` does not say others.
MODELS = {
    "mlp": 5,
    "conv4": 1,
    "dense256": 5,
    "lstm": 3,
    "mobilenet": 2,
    "mobilenet_anil": 3,
}

FLAGS = flags.FLAGS
flags.DEFINE_list("models", list(MODELS), "What is trained.")
flags.DEFINE_list("inner_steps", [], "Inner steps, for other numbers.")
flags.DEFINE_integer("later_steps", 10, "Later steps, of which the median.")
flags.DEFINE_integer("runs", 1, "Processes of each, of which the median.")
flags.DEFINE_bool("measure", False, "Whether this process is one that trains.")


def images(tasks, n_way, support, query, size):
    """A meta-batch of random images; the counts are per class."""
    import numpy as np

    rng = np.random.default_rng(0)

    def draw(count):
        x = rng.normal(size=(tasks, n_way * count, *size)).astype("float32")
        return x, np.tile(np.repeat(np.arange(n_way), count), (tasks, 1))

    (support_x, support_y), (query_x, query_y) = draw(support), draw(query)
    return {
        "support_x": support_x,
        "support_y": support_y,
        "query_x": query_x,
    }, query_y


def waves(tasks, points, size):
    """A meta-batch of random numbers to learn."""
    import numpy as np

    rng = np.random.default_rng(0)

    def draw(*size):
        return rng.normal(size=(tasks, points, *size)).astype("float32")

    x = {"support_x": draw(*size), "support_y": draw(1), "query_x": draw(*size)}
    return x, draw(1)


def make_learner(name):
    """The learner, and a meta-batch."""
    import keras
    from keras import layers

    from keras_maml import learners

    if name == "mlp":
        return learners.mlp(), waves(25, 10, (1,))
    if name == "conv4":
        return learners.conv4(), images(32, 5, 1, 1, (28, 28, 1))
    if name == "dense256":
        learner = learners.mlp((1,), (256, 256, 256))
        return learner, waves(25, 20, (1,))
    if name == "lstm":
        learner = keras.Sequential(
            [
                keras.Input((24, 3)),
                layers.LSTM(32, use_cudnn=False),
                layers.Dense(1),
            ]
        )
        return learner, waves(8, 10, (24, 3))
    body = keras.applications.MobileNetV2(
        (64, 64, 3), alpha=0.35, include_top=False, weights=None, pooling="avg"
    )
    learner = keras.Sequential([body, layers.Dense(5)])
    learner.build((None, 64, 64, 3))
    return learner, images(2, 5, 1, 2, (64, 64, 3))


def measure():
    """Trains the model of the flags; prints a JSON line."""
    import keras
    import tensorflow as tf

    import keras_maml

    keras_maml.configure_threads()
    (name,) = FLAGS.models
    learner, (x, y) = make_learner(name)
    make = keras_maml.algorithms.maml
    if name == "mobilenet_anil":
        make = keras_maml.algorithms.anil
    meta_model = make(learner, 0.01, int(FLAGS.inner_steps[0]))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    meta_model.compile(
        keras.optimizers.Adam(1e-4), "mse" if y.dtype == "float32" else loss
    )
    # What TensorFlow prepares once is no part of a first step.
    tf.function(lambda t: t + 1.0)(tf.zeros([1]))
    processor, clock = time.process_time(), time.perf_counter()
    meta_model.train_on_batch(x, y)
    line = {
        "processor": time.process_time() - processor,
        "clock": time.perf_counter() - clock,
    }
    later, later_processor = [], []
    for _ in range(FLAGS.later_steps):
        processor, clock = time.process_time(), time.perf_counter()
        meta_model.train_on_batch(x, y)
        later.append(time.perf_counter() - clock)
        later_processor.append(time.process_time() - processor)
    line["later"] = statistics.median(later)
    line["overhead"] = line["processor"] - statistics.median(later_processor)
    print(json.dumps(line), flush=True)


def run(name, inner_steps):
    """The line of a process that trains one model."""
    output = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.first_step", "--measure"),
            f"--models={name}",
            f"--inner_steps={inner_steps}",
            f"--later_steps={FLAGS.later_steps}",
        ],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    ).stdout
    return json.loads(output.splitlines()[-1])


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Arguments that are not flags: {argv[1:]}")
    if FLAGS.measure:
        return measure()
    print(
        "| model | inner steps | processor | without the step | clock | "
        "a later step |"
    )
    print("|---|---|---|---|---|---|")
    for name in FLAGS.models:
        for inner_steps in FLAGS.inner_steps or [MODELS[name]]:
            lines = [run(name, inner_steps) for _ in range(FLAGS.runs)]
            processor, overhead, clock, later = (
                statistics.median(line[key] for line in lines)
                for key in ("processor", "overhead", "clock", "later")
            )
            print(
                f"| {name} | {inner_steps} | {processor:.1f} s | "
                f"{overhead:.1f} s | {clock:.1f} s | {later * 1e3:.0f} ms |",
                flush=True,
            )


if __name__ == "__main__":
    app.run(main)
