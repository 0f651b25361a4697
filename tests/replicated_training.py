"""Trains on one device and on several replicas; prints what came of both.

    python -m tests.replicated_training DEVICES ALGORITHM...

A program of its own: TensorFlow does not let the sums over replicas of two
models in one process differ in number and size.
"""

import contextlib
import json
import sys

import keras
import numpy as np
import tensorflow as tf

import keras_maml
from keras_maml import algorithms
from tests.sample_models import class_batch
from tests.sample_models import regression_batch
from tests.sample_models import small_mlp

# Of six tasks, the first meta-batch has five and the last one has one, so a
# replica has none.
TASKS = 6
BATCH_SIZE = 5
# Tasks that count more and less than others. (A task of weight 0 is filled from
# another one of its replica, which metrics without weights tell.)
WEIGHTS = np.array([[2], [0.5], [0.25], [1], [1], [3]], "float32")


def with_regularizer():
    """`small_mlp` with batch norm, a regulariser and a loss of its own."""
    learner = small_mlp(batch_norm=True)
    learner.get_layer("body").kernel_regularizer = keras.regularizers.L2(0.1)
    return learner


def with_context():
    """A learner with context parameters."""
    x = keras.Input((1,))
    context = keras_maml.ContextParameters(2)(x)
    h = keras.layers.Concatenate()([x, context])
    return keras.Model(x, small_mlp(inputs=3)(h))


def features():
    """A learner of features, for Proto-MAML."""
    return small_mlp(inputs=2, outputs=3)


ALGORITHMS = {
    "anil": lambda: algorithms.anil(small_mlp(), 0.1),
    "boil": lambda: algorithms.boil(small_mlp(), 0.1),
    "cavia": lambda: algorithms.cavia(with_context()),
    "fomaml": lambda: algorithms.fomaml(with_regularizer(), 0.1),
    "imaml": lambda: algorithms.imaml(small_mlp(), inner_steps=6),
    "maml": lambda: algorithms.maml(with_regularizer(), 0.1, task_map="loop"),
    "maml_plus_plus": lambda: algorithms.maml_plus_plus(
        small_mlp(batch_norm=True), inner_steps=2, annealing_iterations=3
    ),
    "meta_sgd": lambda: algorithms.meta_sgd(small_mlp(), 0.1),
    "proto_maml": lambda: algorithms.proto_maml(features(), 0.1),
    "reptile": lambda: algorithms.reptile(
        small_mlp(), inner_steps=3, inner_batch_size=3, task_map="loop"
    ),
}


class BatchLogs(keras.callbacks.Callback):
    """Keeps the logs of each step."""

    def __init__(self):
        super().__init__()
        self.logs = []

    def on_train_batch_end(self, batch, logs=None):
        self.logs.append({k: float(v) for k, v in logs.items()})


def trained(
    algorithm,
    strategy=None,
    tasks=slice(None),
    weights=WEIGHTS,
    run_eagerly=False,
):
    """Trains for two epochs.

    Args:
        algorithm: key of `ALGORITHMS`.
        strategy: distribution strategy, or `None` for one device.
        tasks: slice, the tasks of the six.
        weights: array, the sample weights of the six tasks.
        run_eagerly: bool. Whether no graph is traced.

    Returns:
        A dict of the model's weights, and the logs of steps and epochs.
    """
    classes = algorithm == "proto_maml"
    x, y = (class_batch if classes else regression_batch)(tasks=TASKS)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    with strategy.scope() if strategy else contextlib.nullcontext():
        meta_model = ALGORITHMS[algorithm]()
        meta_model.compile(
            # The norm of the sum, and not that of a replica's part.
            keras.optimizers.SGD(0.5, momentum=0.5, clipnorm=0.2),
            loss if classes else "mse",
            metrics=["accuracy" if classes else "mae"],
            weighted_metrics=[] if classes else ["mse"],
            run_eagerly=run_eagerly,
        )
    batch_logs = BatchLogs()
    history = meta_model.fit(
        {key: value[tasks] for key, value in x.items()},
        y[tasks],
        sample_weight=weights[tasks],
        batch_size=BATCH_SIZE,
        epochs=2,
        shuffle=False,
        callbacks=[batch_logs],
        verbose=0,
    )
    return {
        "weights": [weight.tolist() for weight in meta_model.get_weights()],
        "logs": [list(log.values()) for log in batch_logs.logs],
        "history": list(history.history.values()),
        "evaluation": meta_model.evaluate(x, y, verbose=0, batch_size=4),
    }


def main(devices, *names):
    devices = [f"CPU:{i}" for i in range(int(devices))]
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration() for _ in devices],
    )
    # Differences are those of rounding, and no others are as small.
    keras.config.set_floatx("float64")
    strategy = tf.distribute.MirroredStrategy(devices)
    results = {
        name: [trained(name, where) for where in (None, strategy)]
        for name in names
    }
    print(json.dumps(results))


if __name__ == "__main__":
    main(*sys.argv[1:])
