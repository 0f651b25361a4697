"""Discounted sums, advantages and the baseline, against NumPy."""

import numpy as np
import tensorflow as tf

from keras_maml.rl import advantages
from keras_maml.rl.baseline import linear_baseline

RNG = np.random.default_rng(0)


def test_discounted_sums():
    values = RNG.normal(size=(2, 3, 6))
    expected = np.zeros_like(values)
    total = np.zeros((2, 3))
    for t in reversed(range(6)):
        total = values[..., t] + 0.9 * total
        expected[..., t] = total
    result = advantages.discounted_sums(tf.constant(values), 0.9)
    np.testing.assert_allclose(result, expected, rtol=1e-12)
    # 0 to the power of 0 is 1.
    np.testing.assert_array_equal(
        advantages.discounted_sums(tf.constant(values), 0.0), values
    )


def test_discounted_sums_of_long_episodes_are_rounded_once():
    values = RNG.normal(size=(2, 300)).astype("float32")
    total, expected = np.zeros(2), np.zeros((2, 300))
    for t in reversed(range(300)):
        total = values[:, t] + 0.99 * total
        expected[:, t] = total
    result = advantages.discounted_sums(tf.constant(values), 0.99)
    # Half a unit in the last place of float32: no product of fewer bits.
    assert result.dtype == tf.float32
    np.testing.assert_allclose(result, expected, rtol=6e-8, atol=0)


def test_advantages_of_episodes_that_end_early():
    lengths = [6, 1, 4]
    valid = np.array([[t < n for t in range(6)] for n in lengths], float)
    rewards = RNG.normal(size=(3, 6)) * valid
    values = RNG.normal(size=(3, 6))
    expected = np.zeros((3, 6))
    for i, length in enumerate(lengths):
        following = 0.0
        for t in reversed(range(length)):
            value_after = values[i, t + 1] if t + 1 < length else 0.0
            delta = rewards[i, t] + 0.95 * value_after - values[i, t]
            following = delta + 0.95 * 0.8 * following
            expected[i, t] = following
    result = advantages.generalized_advantages(
        tf.constant(rewards),
        tf.constant(values),
        tf.constant(valid),
        discount=0.95,
        gae_lambda=0.8,
    )
    np.testing.assert_allclose(result, expected, rtol=1e-12, atol=1e-14)

    standard = advantages.standardized(result, tf.constant(valid)).numpy()
    taken = standard[valid == 1]
    np.testing.assert_allclose(
        [taken.mean(), taken.std()], [0, 1], rtol=1e-6, atol=1e-12
    )
    assert np.all(standard[valid == 0] == 0)


def test_lambda_1_is_return_minus_value():
    rewards, values = RNG.normal(size=(2, 1, 2, 5))
    ones = tf.ones_like(tf.constant(rewards))
    result = advantages.generalized_advantages(
        tf.constant(rewards), tf.constant(values), ones, 0.9, 1.0
    )
    returns = advantages.discounted_sums(tf.constant(rewards), 0.9)
    np.testing.assert_allclose(result, returns - values, rtol=1e-12)


def test_baseline_is_least_squares_of_each_task():
    observations = 5 * RNG.normal(size=(2, 4, 30, 3))
    returns = RNG.normal(size=(2, 4, 30))
    valid = (RNG.random((2, 4, 30)) < 0.8).astype(float)
    values = linear_baseline(
        tf.constant(observations), tf.constant(returns), tf.constant(valid)
    ).numpy()
    for task in range(2):
        o = np.clip(observations[task].reshape(-1, 3), -10, 10)
        t = np.tile(np.arange(30) / 100, 4)[:, None]
        features = np.concatenate([o, o**2, t, t**2, t**3, t**0], 1)
        rows = valid[task].ravel() == 1
        # The ridge as more rows.
        ridge = np.sqrt(1e-5) * np.eye(features.shape[1])
        coefficients = np.linalg.lstsq(
            np.concatenate([features[rows], ridge]),
            np.concatenate([returns[task].ravel()[rows], np.zeros(len(ridge))]),
            rcond=None,
        )[0]
        np.testing.assert_allclose(
            values[task].ravel(), features @ coefficients, rtol=1e-6, atol=1e-9
        )


def test_baseline_of_episodes_of_one_step():
    # All features of time are the same then.
    values = linear_baseline(
        tf.ones([1, 3, 1, 2]),
        tf.constant([[[1.0], [2.0], [3.0]]]),
        tf.ones([1, 3, 1]),
    )
    np.testing.assert_allclose(values, 2 * np.ones((1, 3, 1)), rtol=1e-4)
