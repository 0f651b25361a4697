"""Families of tasks to which there is nothing to adapt."""

import numpy as np

import keras_maml
from keras_maml import tasks

NOISE = 0.5


def equal_tasks():
    """All tasks are one and the same sine wave, with noise."""
    learner = keras_maml.learners.mlp(kernel_stddev=0.3)
    return learner, tasks.Sinusoid(amplitude=(3, 3), phase=(1, 1), noise=NOISE)


def explained_tasks():
    """Tasks differ in a slope, which stands in a column of the inputs."""
    rng = np.random.default_rng(0)
    count, size = 300, 30
    slope = np.repeat(rng.uniform(-2, 2, count), size)
    x = rng.uniform(-2, 2, count * size)
    table = tasks.from_table(
        {
            "task": np.repeat(np.arange(count), size),
            "slope": slope,
            "x": x,
            "y": slope * x + NOISE * rng.normal(size=len(x)),
        },
        task="task",
        target="y",
        support=10,
        query=15,
    )
    return keras_maml.learners.mlp((2,), kernel_stddev=0.3), table
