"""Spaces of actions and the distributions over them."""

import numpy as np
import pytest
import tensorflow as tf

from keras_maml import rl

RNG = np.random.default_rng(0)


def gaussian(shape=(4, 3)):
    return {
        "mean": tf.constant(RNG.normal(size=shape)),
        "log_std": tf.constant(0.5 * RNG.normal(size=shape)),
    }


def test_gaussian_log_prob():
    space, outputs = rl.ContinuousActions(3), gaussian()
    actions = RNG.normal(size=(4, 3))
    std = np.exp(outputs["log_std"])
    density = np.exp(-0.5 * ((actions - outputs["mean"]) / std) ** 2)
    expected = np.log(density / (std * np.sqrt(2 * np.pi))).sum(-1)
    np.testing.assert_allclose(
        space.log_prob(outputs, tf.constant(actions)), expected, rtol=1e-10
    )


@pytest.mark.parametrize("kind", ["gaussian", "categorical"])
def test_samples_have_the_distribution_and_kl_is_its_mean(kind):
    if kind == "gaussian":
        space, old, new = rl.ContinuousActions(3), gaussian(), gaussian()
    else:
        space = rl.DiscreteActions(3)
        old, new = (tf.constant(RNG.normal(size=(4, 3))) for _ in range(2))
    many = tf.nest.map_structure(lambda t: tf.repeat(t[None], 200_000, 0), old)
    actions = space.sample(many, seed=(0, 1))
    gain = space.log_prob(many, actions) - space.log_prob(new, actions)
    np.testing.assert_allclose(
        space.kl(old, new), tf.reduce_mean(gain, 0), rtol=0.03, atol=0.01
    )
    np.testing.assert_array_equal(space.kl(old, old), np.zeros(4))
    if kind == "categorical":
        share = [np.mean(actions == i, 0) for i in range(3)]
        np.testing.assert_allclose(
            np.transpose(share), tf.nn.softmax(old), atol=0.005
        )
        assert actions.dtype == tf.int32
    # The same seed, the same actions.
    np.testing.assert_array_equal(actions, space.sample(many, seed=(0, 1)))


def test_clip():
    space = rl.ContinuousActions(1, low=-0.1, high=0.2)
    np.testing.assert_allclose(
        space.clip(tf.constant([-1.0, 0.0, 1.0])), [-0.1, 0.0, 0.2], rtol=1e-6
    )


def test_bad_spaces():
    with pytest.raises(ValueError, match=r"`size`.*Received: size=0"):
        rl.ContinuousActions(0)
    with pytest.raises(ValueError, match=r"`high`.*above 1.0.*high=0.5"):
        rl.ContinuousActions(1, low=1.0, high=0.5)
    with pytest.raises(ValueError, match=r"`count`.*Received: count=1"):
        rl.DiscreteActions(1)
