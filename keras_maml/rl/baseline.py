"""The linear feature baseline, fitted to each task's episodes."""

import numpy as np
import tensorflow as tf

# Some features are collinear, such as the powers of time in short episodes.
_RIDGE = 1e-5


def linear_baseline(observations, returns, valid):
    """Expected returns, by least squares on simple features of a step.

    The features are the observation o, clipped to ±10, its square, the time t
    (the number of the step over 100), t², t³ and 1.

    Args:
        observations: tensor `(T, N, H, *observation_shape)`.
        returns: tensor `(T, N, H)`, discounted sums of rewards.
        valid: tensor `(T, N, H)`.

    Returns:
        A tensor `(T, N, H)`: each task's fit at its steps.

    Reference:
        Duan et al., 2016, "Benchmarking Deep Reinforcement Learning for
        Continuous Control", section 4, as Finn et al., 2017, use it.
    """
    tasks, episodes, horizon = returns.shape
    # In double precision: normal equations square the condition number.
    flat = tf.reshape(
        tf.cast(observations, tf.float64),
        [
            tasks,
            episodes,
            horizon,
            int(np.prod(observations.shape[3:])),
        ],
    )
    flat = tf.clip_by_value(flat, -10, 10)
    time = tf.range(horizon, dtype=tf.float64) / 100
    powers = tf.stack([time, time**2, time**3, tf.ones_like(time)], -1)
    powers = tf.broadcast_to(powers, [tasks, episodes, *powers.shape])
    features = tf.concat([flat, flat**2, powers], -1)
    weighted = features * tf.cast(valid, tf.float64)[..., tf.newaxis]
    matrix = tf.einsum("tnhi,tnhj->tij", weighted, features)
    matrix += _RIDGE * tf.eye(features.shape[-1], dtype=tf.float64)
    target = tf.einsum("tnhi,tnh->ti", weighted, tf.cast(returns, tf.float64))
    coefficients = tf.linalg.solve(matrix, target[..., tf.newaxis])[..., 0]
    values = tf.einsum("tnhi,ti->tnh", features, coefficients)
    return tf.cast(values, returns.dtype)
