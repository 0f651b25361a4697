"""Convolutions of few images, against TensorFlow's own."""

import numpy as np
import pytest
import tensorflow as tf

from keras_maml import convolution
from keras_maml import lowering

# Image, kernel, strides, padding. From eight channels on patches are gathered.
CASES = [
    ((2, 5, 5, 1), (3, 3, 1, 2), 2, "SAME"),
    ((2, 6, 5, 3), (3, 2, 3, 4), (1, 2), "SAME"),
    ((1, 7, 6, 2), (3, 3, 2, 3), (2, 3), "VALID"),
    ((2, 5, 6, 9), (3, 3, 9, 2), 2, "SAME"),
    ((1, 4, 7, 8), (2, 3, 8, 3), (3, 2), "SAME"),
    ((2, 7, 6, 8), (4, 3, 8, 2), (2, 1), "VALID"),
    ((3, 4, 4, 8), (1, 1, 8, 2), 1, "VALID"),
    ((1, 2, 2, 8), (5, 5, 8, 2), 1, "SAME"),
    ((1, 6, 6, 8), (2, 2, 8, 2), 4, "SAME"),
]


def derivatives(function, x, kernel):
    """The value, and all derivatives up to the third of a scalar of it."""
    with tf.GradientTape(persistent=True) as third:
        third.watch([x, kernel])
        with tf.GradientTape(persistent=True) as second:
            second.watch([x, kernel])
            with tf.GradientTape() as first:
                first.watch([x, kernel])
                y = function(x, kernel)
                loss = tf.reduce_sum(tf.sin(y))
            gradients = first.gradient(loss, [x, kernel])
            total = sum(tf.reduce_sum(tf.cos(g)) for g in gradients)
        seconds = second.gradient(total, [x, kernel])
        total = sum(tf.reduce_sum(tf.sin(g)) for g in seconds)
    return [y, *gradients, *seconds, *third.gradient(total, [x, kernel])]


@pytest.mark.parametrize(("image", "window", "strides", "padding"), CASES)
def test_every_derivative_is_tensorflows(
    image, window, strides, padding, monkeypatch
):
    rng = np.random.default_rng(0)
    x = tf.constant(rng.standard_normal(image))
    kernel = tf.constant(rng.standard_normal(window))

    def convolve(x, kernel):
        return tf.nn.convolution(x, kernel, strides, padding)

    # TensorFlow's own has no third derivative in eager execution.
    graph = tf.function(derivatives, autograph=False)
    graph = tf.function(derivatives, autograph=False)
    expected = graph(convolve, x, kernel)
    used = []
    own = convolution.convolution
    monkeypatch.setattr(
        convolution, "convolution", lambda *a: used.append(1) or own(*a)
    )
    with lowering.exact_ops():
        graph = tf.function(derivatives, autograph=False)
        for how in (derivatives, graph):
            actual = how(convolve, x, kernel)
            assert used.pop()
            for a, e in zip(actual, expected):
                np.testing.assert_allclose(a, e, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("image", "window", "settings"),
    [
        # Large, empty, grouped, dilated, of one dimension, integers.
        ((20, 14, 14, 64), (3, 3, 64, 2), {"strides": 2, "padding": "SAME"}),
        ((0, 4, 4, 2), (3, 3, 2, 2), {}),
        ((1, 4, 4, 4), (3, 3, 2, 2), {}),
        ((1, 6, 6, 2), (3, 3, 2, 2), {"dilations": 2}),
        ((1, 6, 2), (3, 2, 2), {"strides": (1,), "dilations": (1,)}),
    ],
)
def test_the_rest_is_left_to_tensorflow(image, window, settings, monkeypatch):
    monkeypatch.delattr(convolution, "convolution")
    x, kernel = tf.ones(image), tf.ones(window)
    expected = tf.nn.convolution(x, kernel, **settings)
    with lowering.exact_ops():
        actual = tf.nn.convolution(x, kernel, **settings)
    np.testing.assert_array_equal(actual, expected)


def test_unknown_batch_sizes_are_left_to_tensorflow(monkeypatch):
    monkeypatch.delattr(convolution, "convolution")

    @tf.function(input_signature=[tf.TensorSpec((None, 4, 4, 2))])
    def convolve(x):
        with lowering.exact_ops():
            return tf.nn.convolution(x, tf.ones((3, 3, 2, 2)), padding="VALID")

    np.testing.assert_array_equal(convolve(tf.ones((2, 4, 4, 2))), 18.0)


def test_strides_may_be_numpys():
    x, kernel = tf.ones((1, 4, 4, 2)), tf.ones((1, 1, 2, 2))
    with lowering.exact_ops():
        y = tf.nn.convolution(x, kernel, np.int64(2), "SAME")
    assert y.shape == (1, 2, 2, 2)
