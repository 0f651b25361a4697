"""Small searches that several tests of policies share."""

import contextlib
import warnings

import keras
import numpy as np
import tensorflow as tf

import keras_maml
from keras_maml import rl


def search(environment=None, hidden=(), **kwargs):
    """A search of few operations: tracing them takes most of the time."""
    if environment is None:
        environment = rl.GoalVelocity(horizon=6)
    settings = {"episodes": 3, "outer_update": rl.PPO(steps=1), **kwargs}
    return rl.MetaPolicySearch(
        rl.mlp_policy(environment, hidden), environment, **settings
    )


def train(meta_policy, epochs=1, **kwargs):
    sampler = meta_policy.environment.tasks(4, seed=5)
    return meta_policy.fit(sampler, epochs, verbose=0, **kwargs)


@contextlib.contextmanager
def eagerly():
    """Runs operations one by one, in a fifth of the time that a trace takes."""
    tf.config.run_functions_eagerly(True)
    try:
        with warnings.catch_warnings():
            # `tf.data` says that this does not apply to it.
            warnings.filterwarnings("ignore", "Even though the `tf.config")
            yield
    finally:
        tf.config.run_functions_eagerly(False)


def weights(meta_policy):
    return [v.numpy() for v in meta_policy.variables]


def assert_same(a, b, **kwargs):
    for i, j in zip(weights(a), weights(b), strict=True):
        np.testing.assert_allclose(i, j, **{"rtol": 0, **kwargs})


def with_context():
    """A policy of `GoalVelocity` with context parameters."""
    x = keras.Input((2,))
    h = keras.layers.Concatenate()([x, keras_maml.ContextParameters(3)(x)])
    return gaussian_heads(x, keras.layers.Dense(4, activation="tanh")(h))


def gaussian_heads(x, h):
    return keras.Model(
        x,
        {
            "mean": keras.layers.Dense(1)(h),
            "log_std": keras.layers.Dense(1)(h),
        },
    )
