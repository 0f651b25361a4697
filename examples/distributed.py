"""Meta-training in one process, in several processes, or on several machines.

The same program runs alone, as several processes of this machine, and as the
worker that the environment variable `TF_CONFIG` makes it. In every case it ends
with the same weights, to rounding, because workers share each meta-batch.

    python examples/distributed.py
    python examples/distributed.py --workers=2
    TF_CONFIG='{"cluster": {"worker": ["host0:2222", "host1:2222"]},
        "task": {"type": "worker", "index": 0}}' python examples/distributed.py

docs/scaling.md says how to get from one to the other. To go on with a run that
was interrupted, repeat the command on every machine.
"""

import json
import os
import socket
import subprocess
import sys
import time

# Hides TensorFlow's start-up messages; must come before its import.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import tensorflow as tf
from absl import app
from absl import flags

import keras_maml
from keras_maml import tasks

FLAGS = flags.FLAGS

flags.DEFINE_integer(
    "workers",
    None,
    "Starts so many processes on this machine and gives each its part of the "
    "cores. By default this process works alone, or as TF_CONFIG says.",
    lower_bound=1,
)
flags.DEFINE_integer(
    "meta_batch_size",
    16,
    "Tasks of a training step, which all workers share.",
    lower_bound=1,
)
flags.DEFINE_integer(
    "iterations", 200, "Training steps of an epoch.", lower_bound=1
)
flags.DEFINE_integer("epochs", 2, "Epochs.", lower_bound=1)
flags.DEFINE_integer(
    "filters", 32, "Filters of each convolution.", lower_bound=1
)
flags.DEFINE_integer("test_tasks", 200, "Unseen tasks.", lower_bound=1)
flags.DEFINE_integer(
    "seed",
    0,
    "Seed of weights and tasks.",
    lower_bound=0,
    upper_bound=2**32 - 1,
)
flags.DEFINE_string(
    "output_dir",
    "outputs/distributed",
    "Folder of the model and of what the run needs to go on. All machines must "
    "see it.",
)

# A run goes on if it has the same values of these.
TRAINING_FLAGS = ("meta_batch_size", "iterations", "filters", "seed")


class Speed(keras.callbacks.Callback):
    """Counts the tasks of a second, without the step that compiles."""

    def on_train_batch_end(self, batch, logs=None):
        if not hasattr(self, "first"):
            self.first, self.count = time.perf_counter(), 0
        else:
            self.count += FLAGS.meta_batch_size
            self.seconds = time.perf_counter() - self.first


def start_workers():
    """Runs this program once for each worker; returns an exit status."""
    sockets = [
        socket.create_server(("127.0.0.1", 0)) for _ in range(FLAGS.workers)
    ]
    addresses = [f"127.0.0.1:{s.getsockname()[1]}" for s in sockets]
    for one in sockets:
        one.close()
    cores = sorted(os.sched_getaffinity(0))
    workers = []
    for index in range(FLAGS.workers):
        config = {
            "cluster": {"worker": addresses},
            "task": {"type": "worker", "index": index},
        }
        # A process inherits the cores of the one that starts it.
        os.sched_setaffinity(0, cores[index :: FLAGS.workers] or cores)
        workers.append(
            subprocess.Popen(
                [sys.executable, *sys.argv],
                env={**os.environ, "TF_CONFIG": json.dumps(config)},
            )
        )
    try:
        # If a worker fails, TensorFlow ends the others.
        return max(abs(worker.wait()) for worker in workers)
    finally:
        for worker in workers:
            worker.kill()


def train(strategy):
    """Returns the trained model and the `Speed`."""
    glyphs = tasks.Glyphs(seed=FLAGS.seed)
    with strategy.scope():
        meta_model = keras_maml.algorithms.maml(
            keras_maml.learners.conv4(filters=FLAGS.filters, seed=FLAGS.seed),
            inner_optimizer=0.4,
        )
        meta_model.compile(
            "adam",
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
    speed = Speed()
    meta_model.fit(
        glyphs.batch(FLAGS.meta_batch_size),
        steps_per_epoch=FLAGS.iterations,
        epochs=FLAGS.epochs,
        callbacks=[
            speed,
            keras_maml.callbacks.Resume(
                os.path.join(FLAGS.output_dir, "run.resume"),
                settings={name: FLAGS[name].value for name in TRAINING_FLAGS},
            ),
        ],
        shuffle=False,
        verbose=0,
    )
    return meta_model, speed


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Arguments that are not flags: {argv[1:]}")
    if FLAGS.workers is not None and "TF_CONFIG" not in os.environ:
        return start_workers()
    # It tells of each strategy and of each sum.
    tf.get_logger().setLevel("WARNING")
    # Tasks side by side, each on one core.
    keras_maml.configure_threads()
    if "TF_CONFIG" in os.environ:
        # Before anything else of TensorFlow.
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
        is_chief = strategy.cluster_resolver.task_id == 0
    else:
        # All GPUs of this machine, or its only device.
        strategy = tf.distribute.get_strategy()
        if len(tf.config.list_physical_devices("GPU")) > 1:
            strategy = tf.distribute.MirroredStrategy()
        is_chief = True
    meta_model, speed = train(strategy)
    # All workers evaluate, each its part of the tasks.
    held_out = tasks.Glyphs(split="test", seed=FLAGS.seed)
    scores = meta_model.evaluate(
        held_out.batch(FLAGS.meta_batch_size, count=FLAGS.test_tasks),
        return_dict=True,
        verbose=0,
    )
    if is_chief:
        meta_model.save(os.path.join(FLAGS.output_dir, "model.keras"))
        replicas = strategy.num_replicas_in_sync
        if getattr(speed, "count", 0):
            rate = speed.count / speed.seconds
            print(f"{replicas} replicas: {rate:.1f} tasks a second")
        print(
            f"accuracy on {FLAGS.test_tasks} unseen tasks: "
            f"{scores['accuracy']:.4f}, loss {scores['loss']:.4f}"
        )
    return 0


if __name__ == "__main__":
    app.run(main)
