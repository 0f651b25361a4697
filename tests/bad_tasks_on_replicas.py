"""Has a bad task on one of two replicas; prints what came of it as JSON.

    python -m tests.bad_tasks_on_replicas

A program of its own: an error between the sums over replicas would end all
further sums of a process.
"""

import json
import sys

import numpy as np
import tensorflow as tf

import keras_maml
from tests.sample_models import regression_batch
from tests.sample_models import small_mlp

TASKS = 4


def dataset(*bad_tasks):
    """Three meta-batches, of which the second one has bad tasks."""
    x, y = regression_batch(tasks=3 * TASKS)
    y = np.array(y)
    y[[TASKS + i for i in bad_tasks]] = np.nan
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(TASKS)


def train(meta_model, data, steps):
    """Returns the error of `fit` and the number of steps it has taken."""
    try:
        meta_model.fit(data, steps_per_epoch=steps, verbose=0)
        error = None
    except ValueError as raised:
        error = str(raised)
    iterations = int(meta_model.optimizer.iterations.numpy())
    return {
        "error": error,
        "iterations": iterations,
        "finite": all(np.isfinite(w).all() for w in meta_model.get_weights()),
    }


def main():
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * 2,
    )
    results = {}
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        for mode, cases in {
            "raise": [[3]],
            "skip": [[3], range(TASKS)],
        }.items():
            meta_model = keras_maml.MetaModel(small_mlp(), bad_tasks=mode)
            meta_model.compile("adam", "mse")
            for bad in cases:
                meta_model.optimizer.iterations.assign(0)
                first = train(meta_model, dataset(*bad), 3)
                again = train(meta_model, dataset(), 3)
                results[f"{mode} {len(bad)}"] = [first, again]
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
