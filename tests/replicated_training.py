"""Trains on one device and on two replicas; prints the weights as JSON.

A program of its own: TensorFlow does not let the sums over replicas of two
models in one process differ in number and size.
"""

import contextlib
import json

import keras
import numpy as np
import tensorflow as tf

import keras_maml
from tests.sample_models import regression_batch
from tests.sample_models import small_mlp

META_GRADIENTS = ("second_order", "first_order", "reptile", "implicit")
# A task that counts twice, one that counts half and one that does not count.
WEIGHTS = np.array([[2.0], [0.5], [0.0], [1.0]], "float32")


def trained(meta_gradient, strategy=None, tasks=slice(None), weights=WEIGHTS):
    """The learner's weights after two steps of plain SGD."""
    with strategy.scope() if strategy else contextlib.nullcontext():
        meta_model = keras_maml.MetaModel(
            small_mlp(),
            inner_optimizer=0.1,
            inner_steps=2,
            meta_gradient=meta_gradient,
            task_map="loop",
        )
        meta_model.compile(keras.optimizers.SGD(0.5), loss="mse")
    x, y = regression_batch(tasks=4)
    meta_model.fit(
        {key: value[tasks] for key, value in x.items()},
        y[tasks],
        sample_weight=weights[tasks],
        batch_size=4,
        epochs=2,
        shuffle=False,
        verbose=0,
    )
    return meta_model.learner.get_weights()


def main():
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * 2,
    )
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    results = {
        name: [
            [weight.tolist() for weight in trained(name, where)]
            for where in (None, strategy)
        ]
        for name in META_GRADIENTS
    }
    print(json.dumps(results))


if __name__ == "__main__":
    main()
