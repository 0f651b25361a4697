"""Has one of two replicas with tasks of weight 0 alone; prints moving averages.

    python -m tests.weightless_on_replicas

A program of its own, as `replicated_training`.
"""

import contextlib
import json
import sys

import numpy as np
import tensorflow as tf

import keras_maml
from tests.sample_models import regression_batch
from tests.sample_models import small_mlp


def moving_averages(weights, strategy=None):
    """Returns the moving averages after a step on tasks of such weights."""
    x, y = regression_batch(tasks=4)
    count = len(weights)
    with strategy.scope() if strategy else contextlib.nullcontext():
        learner = small_mlp(batch_norm=True)
        meta_model = keras_maml.MetaModel(learner)
        meta_model.compile("sgd", "mse")
    meta_model.fit(
        {key: value[:count] for key, value in x.items()},
        y[:count],
        sample_weight=np.array(weights, "float32")[:, np.newaxis],
        batch_size=count,
        shuffle=False,
        verbose=0,
    )
    state = learner.non_trainable_variables
    return [np.array(v.value).tolist() for v in state if v.dtype == "float32"]


def main():
    devices = ["CPU:0", "CPU:1"]
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration() for _ in devices],
    )
    strategy = tf.distribute.MirroredStrategy(devices)
    results = [
        moving_averages([1, 2]),
        moving_averages([1, 2, 0, 0], strategy),
        moving_averages([0, 0, 0, 0], strategy),
    ]
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
