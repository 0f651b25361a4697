"""Batch normalisation in closed form against the formula's own derivatives."""

import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_maml.engine import normalization
from keras_maml.exact import batch_norm


def by_formula(x, gamma, beta, epsilon):
    axes = list(range(x.shape.rank - 1))
    mean = tf.reduce_mean(x, axes)
    variance = tf.reduce_mean((x - mean) ** 2, axes)
    y = (x - mean) * tf.math.rsqrt(variance + epsilon) * gamma + beta
    return y, mean, variance


def derivatives(function, arguments, order):
    """Values, and the derivatives up to `order` of a scalar made of them."""
    rng = np.random.default_rng(1)

    def scalar(tensors):
        return sum(
            tf.reduce_sum(
                tf.sin(t) * tf.constant(rng.standard_normal(t.shape), t.dtype)
            )
            for t in tensors
        )

    if order == 0:
        return list(function(*arguments, 1e-3))
    with tf.GradientTape() as tape:
        tape.watch(arguments)
        below = derivatives(function, arguments, order - 1)
        loss = scalar(below)
    return tape.gradient(loss, arguments)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("shape", [(3, 4, 4, 5), (9, 5), (2, 3, 2, 2, 4)])
@pytest.mark.parametrize("compiled", [False, True])
def test_every_derivative_is_the_formulas(shape, dtype, compiled):
    rng = np.random.default_rng(0)
    arguments = [
        tf.constant(2 * rng.standard_normal(s) + 1, dtype)
        for s in (shape, shape[-1:], shape[-1:])
    ]
    exact = [tf.cast(a, tf.float64) for a in arguments]
    derivatives_of = derivatives
    if compiled:
        derivatives_of = tf.function(derivatives, autograph=False)
    for order in range(4):
        actual = derivatives_of(
            batch_norm.batch_normalization, arguments, order
        )
        expected = derivatives(by_formula, exact, order)
        tolerance = {"float64": 1e-11, "float32": 10.0 ** (order - 6)}[dtype]
        for a, e in zip(actual, expected):
            error = tf.norm(tf.cast(a, tf.float64) - e) / tf.norm(e)
            assert error < tolerance, order


def test_gamma_and_beta_may_be_absent():
    x = tf.random.stateless_normal((6, 3), (0, 0))
    y, _, _ = batch_norm.batch_normalization(x, None, None, 1e-3)
    expected, _, _ = by_formula(x, tf.ones(3), tf.zeros(3), 1e-3)
    np.testing.assert_allclose(y, expected, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 2), (1, 1, 1, 2)])
def test_one_element_has_no_variance(shape):
    x = tf.reshape(tf.constant([3.0, -2.0]), shape)
    y, mean, variance = batch_norm.batch_normalization(x, None, None, 1e-3)
    np.testing.assert_array_equal(y, np.zeros(shape))
    np.testing.assert_array_equal(mean, [3.0, -2.0])
    np.testing.assert_array_equal(variance, [0.0, 0.0])


def test_a_mean_far_from_0_costs_no_precision():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 5, 5, 3)) + 100.0
    arguments = [tf.constant(a, "float32") for a in (x, np.ones(3), np.ones(3))]
    exact = [tf.cast(a, tf.float64) for a in arguments]
    actual = derivatives(batch_norm.batch_normalization, arguments, 2)
    expected = derivatives(by_formula, exact, 2)
    for a, e in zip(actual, expected):
        error = tf.norm(tf.cast(a, tf.float64) - e) / tf.norm(e)
        assert error < 1e-3


@pytest.mark.parametrize("policy", ["float32", "float64", "mixed_bfloat16"])
@pytest.mark.parametrize("kwargs", [{}, {"scale": False}, {"center": False}])
def test_the_layer_computes_what_keras_computes(policy, kwargs):
    layer = keras.layers.BatchNormalization(dtype=policy, **kwargs)
    x = tf.random.stateless_normal((4, 3, 3, 5), (0, 1))
    layer.build(x.shape)
    for v in layer.trainable_variables:
        v.assign(tf.random.stateless_normal(v.shape, (0, 2)))
    start = layer.get_weights()
    expected = layer(x, training=True)
    expected_state = layer.get_weights()
    layer.set_weights(start)
    with normalization.batch_statistics([layer]):
        actual = layer(x)
    assert actual.dtype == expected.dtype
    tolerance = 0.02 if policy == "mixed_bfloat16" else 1e-5
    np.testing.assert_allclose(
        tf.cast(actual, "float32"), tf.cast(expected, "float32"), atol=tolerance
    )
    for a, e in zip(layer.get_weights(), expected_state):
        np.testing.assert_allclose(a, e, atol=1e-5)


@pytest.mark.parametrize(
    "kwargs", [{"axis": 1}, {"renorm": True}, {"trainable": False}]
)
def test_other_forms_are_left_to_keras(kwargs):
    known = inspect.signature(keras.layers.BatchNormalization).parameters
    if not known.keys() >= kwargs.keys() - {"trainable"}:
        pytest.skip("Keras 3.12 and 3.13 have no `renorm`")
    layer = keras.layers.BatchNormalization(**kwargs)
    x = tf.random.stateless_normal((4, 3, 3, 5), (0, 1))
    layer.build(x.shape)
    start = layer.get_weights()
    expected = layer(x, training=True)
    layer.set_weights(start)
    with normalization.batch_statistics([layer]):
        np.testing.assert_array_equal(layer(x), expected)


def test_a_subclass_keeps_its_call():
    class Plain(keras.layers.BatchNormalization):
        def call(self, inputs):
            return inputs + 1.0

    layer = Plain()
    with normalization.batch_statistics([layer], use=None):
        np.testing.assert_array_equal(layer(tf.zeros((2, 3))), np.ones((2, 3)))
