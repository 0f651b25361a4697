"""The work that is timed: networks, weights and meta-batches.

The same numbers as in the runners of the peer libraries, so that the losses of
the first step tell whether two runs did the same work.
"""

import dataclasses
import math

import keras
import numpy as np
import tensorflow as tf
from keras import layers


@dataclasses.dataclass(frozen=True)
class Workload:
    """One meta-training problem; `support` and `query` are per class, if any.

    Attributes:
        tasks: int. Tasks of a meta-batch.
        inner_steps: int.
        inner_rate: float. The inner learning rate.
        support: int. Support examples (of each class).
        query: int. Query examples (of each class).
        width: int. Units or filters of each hidden layer.
        layers: int. Hidden layers of a dense network.
        n_way: int. Classes, or 0 for regression of sine waves.
        image: tuple. Shape of an image.
        max_pool: bool. Pooling in the place of strides.
        steps_per_execution: int. What its user would pass to `compile`.
    """

    tasks: int
    inner_steps: int
    inner_rate: float
    support: int
    query: int
    width: int
    n_way: int = 0
    image: tuple = ()
    max_pool: bool = False
    steps_per_execution: int = 1
    layers: int = 2


WORKLOADS = {
    "sine1": Workload(25, 1, 0.01, 10, 10, 40, steps_per_execution=100),
    "sine5": Workload(25, 5, 0.01, 10, 10, 40, steps_per_execution=100),
    "omni5w1s": Workload(32, 1, 0.4, 1, 1, 64, 5, (28, 28, 1)),
    "omni20w1s": Workload(16, 5, 0.1, 1, 1, 64, 20, (28, 28, 1)),
    "mini5w1s": Workload(4, 5, 0.01, 1, 15, 32, 5, (84, 84, 3), max_pool=True),
}


def make_learner(workload):
    """The network, with the weights that all peers start from."""
    learner = keras.Sequential()
    if workload.n_way == 0:
        learner.add(keras.Input((1,)))
        for _ in range(workload.layers):
            learner.add(layers.Dense(workload.width, activation="relu"))
        learner.add(layers.Dense(1))
    else:
        learner.add(keras.Input(workload.image))
        for _ in range(4):
            strides = 1 if workload.max_pool else 2
            learner.add(
                layers.Conv2D(workload.width, 3, strides, padding="same")
            )
            learner.add(layers.BatchNormalization())
            learner.add(layers.ReLU())
            if workload.max_pool:
                learner.add(layers.MaxPooling2D(2))
        if workload.max_pool:
            learner.add(layers.Flatten())
        else:
            learner.add(layers.GlobalAveragePooling2D())
        learner.add(layers.Dense(workload.n_way))
    rng = np.random.default_rng(0)
    for variable in learner.trainable_variables:
        variable.assign(_initial_value(rng, variable))
    return learner


def _initial_value(rng, variable):
    if variable.name == "kernel":
        *window, inputs, outputs = variable.shape
        limit = math.sqrt(6.0 / (math.prod(window) * (inputs + outputs)))
        return rng.uniform(-limit, limit, variable.shape)
    # Off their usual 0 and 1, where some gradients would not show.
    center = 1.0 if variable.name == "gamma" else 0.0
    return 0.1 * rng.standard_normal(variable.shape) + center


def make_meta_batch(workload, seed):
    """A meta-batch `(x, y)` of random tasks, as tensors."""
    rng = np.random.default_rng(seed)
    if workload.n_way == 0:
        arrays = _sines(workload, rng)
    else:
        arrays = _images(workload, rng)
    support_x, support_y, query_x, query_y = map(tf.constant, arrays)
    x = {"support_x": support_x, "support_y": support_y, "query_x": query_x}
    return x, query_y


def _sines(workload, rng):
    amplitude = rng.uniform(0.1, 5.0, (workload.tasks, 1, 1))
    phase = rng.uniform(0.0, np.pi, (workload.tasks, 1, 1))
    for count in (workload.support, workload.query):
        x = rng.uniform(-5.0, 5.0, (workload.tasks, count, 1))
        yield x.astype("float32")
        yield (amplitude * np.sin(x + phase)).astype("float32")


def _images(workload, rng):
    # A pattern a class plus noise: something to learn.
    shape = (workload.tasks, workload.n_way)
    patterns = rng.standard_normal((*shape, 1, *workload.image))
    for count in (workload.support, workload.query):
        noise = rng.standard_normal((*shape, count, *workload.image))
        examples = (patterns + noise).astype("float32")
        labels = np.repeat(np.arange(workload.n_way, dtype="int32"), count)
        yield examples.reshape(workload.tasks, -1, *workload.image)
        yield np.tile(labels, (workload.tasks, 1))
