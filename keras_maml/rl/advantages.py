"""From rewards to advantages."""

import numpy as np
import tensorflow as tf


def discounted_sums(values, discount):
    """Σ_{l ≥ 0} discountˡ · values[t + l] for every step t.

    Args:
        values: tensor `(..., H)`.
        discount: float from 0 to 1.

    Returns:
        A tensor `(..., H)`.
    """
    horizon = values.shape[-1]
    # One product with a matrix instead of a loop over steps. In float64: a GPU
    # multiplies float32 matrices as TensorFloat-32, with 10 bits.
    later = np.arange(horizon)[:, None] - np.arange(horizon)
    powers = np.where(later >= 0, float(discount) ** np.maximum(later, 0), 0.0)
    sums = tf.matmul(tf.cast(values, tf.float64), tf.constant(powers))
    return tf.cast(sums, values.dtype)


def generalized_advantages(rewards, values, valid, discount, gae_lambda):
    """Generalised advantage estimation (GAE).

    An episode that reaches the horizon counts as over, like one that ends
    earlier: the value after its last step is 0.

    Args:
        rewards: tensor `(..., H)`.
        values: tensor `(..., H)`, the returns that the baseline expects.
        valid: tensor `(..., H)`, 1 for steps that were taken.
        discount: float, γ.
        gae_lambda: float, λ.

    Returns:
        A tensor `(..., H)`, 0 where `valid` is 0.

    Reference:
        Schulman et al., 2016, "High-Dimensional Continuous Control Using
        Generalized Advantage Estimation", equation 16.
    """
    values *= valid
    following = tf.concat([values[..., 1:], tf.zeros_like(values[..., :1])], -1)
    residuals = (rewards + discount * following - values) * valid
    return discounted_sums(residuals, discount * gae_lambda) * valid


def standardized(advantages, valid):
    """Advantages with mean 0 and standard deviation 1 over a task's steps.

    Args:
        advantages: tensor `(..., N, H)`.
        valid: tensor `(..., N, H)`.

    Returns:
        A tensor `(..., N, H)`, 0 where `valid` is 0.
    """
    count = tf.reduce_sum(valid, [-2, -1], keepdims=True)

    def mean(values):
        return tf.reduce_sum(values * valid, [-2, -1], keepdims=True) / count

    centred = advantages - mean(advantages)
    return centred / (tf.sqrt(mean(tf.square(centred))) + 1e-8) * valid
