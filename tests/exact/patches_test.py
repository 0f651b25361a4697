"""Convolutions as products of patches, against TensorFlow's own."""

import numpy as np
import pytest
import tensorflow as tf

from keras_maml.exact import products
from keras_maml.exact.patches import Window
from keras_maml.exact.patches import fold
from keras_maml.exact.patches import patches

# Window, strides, dilations, and padding, over images of 7 × 6.
WINDOWS = [
    Window((3, 2), (1, 1), (1, 1), "SAME"),
    Window((2, 3), (2, 1), (1, 1), "VALID"),
    Window((3, 3), (2, 2), (1, 1), "SAME"),
    Window((2, 2), (1, 1), (2, 2), "SAME"),
    Window((1, 1), (1, 1), (1, 1), "VALID"),
    Window((1, 2), (3, 2), (1, 1), "VALID"),
]


def derivatives(function, x, kernel):
    """The value, and all derivatives up to the second of a scalar of it."""
    with tf.GradientTape() as second:
        second.watch([x, kernel])
        with tf.GradientTape() as first:
            first.watch([x, kernel])
            y = function(x, kernel)
            loss = tf.reduce_sum(tf.sin(y))
        gradients = first.gradient(loss, [x, kernel])
        total = sum(tf.reduce_sum(tf.cos(g)) for g in gradients)
    return [y, *gradients, *second.gradient(total, [x, kernel])]


def assert_same_derivatives(actual, expected, image, kernel):
    rng = np.random.default_rng(0)
    arguments = [tf.constant(rng.standard_normal(s)) for s in (image, kernel)]
    # TensorFlow's own has no second derivative in eager execution.
    in_graph = tf.function(derivatives, autograph=False)
    for a, e in zip(
        derivatives(actual, *arguments), in_graph(expected, *arguments)
    ):
        np.testing.assert_allclose(a, e, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("window", WINDOWS)
def test_convolutions(window):
    def expected(x, kernel):
        return tf.nn.convolution(
            x,
            kernel,
            window.strides,
            window.padding,
            dilations=window.dilations,
        )

    def actual(x, kernel):
        return products.convolution(x, kernel, window)

    kernel = (*window.size, 3, 4)
    assert_same_derivatives(actual, expected, (2, 7, 6, 3), kernel)


@pytest.mark.parametrize("window", [w for w in WINDOWS if w.strides[0] < 3])
def test_depthwise_convolutions(window):
    # TensorFlow's kernel takes one stride.
    window = window._replace(strides=window.strides[:1] * 2)

    def expected(x, kernel):
        return tf.nn.depthwise_conv2d(
            x,
            kernel,
            [1, *window.strides, 1],
            window.padding,
            dilations=window.dilations,
        )

    def actual(x, kernel):
        return products.depthwise_convolution(x, kernel, window)

    kernel = (*window.size, 3, 2)
    assert_same_derivatives(actual, expected, (2, 7, 6, 3), kernel)


@pytest.mark.parametrize(
    "window",
    [
        Window((3,), (2,), (1,), "SAME"),
        Window((2, 3), (1, 2), (1, 1), "VALID"),
        Window((2, 1, 2), (1, 1, 2), (1, 1, 1), "SAME"),
    ],
)
def test_transposed_convolutions(window):
    image = (5, 4, 6)[: len(window.size)]
    rows = patches(tf.zeros((2, *image, 3)), window)
    output_shape = (2, *image, 3)

    def expected(x, kernel):
        return tf.nn.conv_transpose(
            x, kernel, output_shape, window.strides, window.padding
        )

    def actual(x, kernel):
        return products.transposed_convolution(x, kernel, window, image)

    assert_same_derivatives(
        actual, expected, (*rows.shape[:-1], 4), (*window.size, 3, 4)
    )


@pytest.mark.parametrize("groups", [2, 4])
def test_groups(groups):
    window = WINDOWS[0]

    def expected(x, kernel):
        pairs = zip(tf.split(x, groups, -1), tf.split(kernel, groups, -1))
        return tf.concat(
            [tf.nn.convolution(*pair, 1, "SAME") for pair in pairs], -1
        )

    def actual(x, kernel):
        return products.convolution(x, kernel, window)

    kernel = (*window.size, 8 // groups, 4)
    assert_same_derivatives(actual, expected, (2, 7, 6, 8), kernel)


def test_maxima():
    window = WINDOWS[0]

    def expected(x, kernel):
        x = tf.pad(x, [[0, 0], [1, 1], [0, 1], [0, 0]], constant_values=-np.inf)
        shifted = [x[:, i : i + 7, j : j + 6] for i in range(3) for j in (0, 1)]
        return kernel * tf.reduce_max(tf.stack(shifted), 0)

    def actual(x, kernel):
        return kernel * products.max_pooling(x, window)

    assert_same_derivatives(actual, expected, (2, 7, 6, 3), (3,))


@pytest.mark.parametrize("window", WINDOWS[1:3])
def test_of_equal_numbers_the_first_is_the_maximum(window):
    def expected(x, kernel):
        return kernel * tf.nn.max_pool(
            x, window.size, window.strides, window.padding
        )

    def actual(x, kernel):
        return kernel * products.max_pooling(x, window)

    x = np.random.default_rng(0).integers(-2, 1, (2, 7, 6, 3))
    x, one = tf.constant(x, tf.float64), tf.ones(3, tf.float64)
    for a, e in zip(
        derivatives(actual, x, one),
        tf.function(derivatives, autograph=False)(expected, x, one),
    ):
        np.testing.assert_allclose(a, e, rtol=1e-10, atol=1e-10)


def test_fold_is_the_transpose():
    for window in WINDOWS:
        x = tf.random.stateless_normal((2, 7, 6, 3), (0, 0), dtype="float64")
        seen = patches(x, window)
        y = tf.random.stateless_normal(seen.shape, (0, 1), dtype="float64")
        left = tf.reduce_sum(seen * y)
        right = tf.reduce_sum(x * fold(y, window, (7, 6)))
        np.testing.assert_allclose(left, right, rtol=1e-10)


def test_a_window_larger_than_the_image_sees_nothing():
    window = Window((8, 2), (1, 1), (1, 1), "VALID")
    assert patches(tf.ones((2, 7, 6, 3)), window).shape == (2, 0, 5, 48)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_each_task_may_have_its_own_kernel(jit_compile):
    window = WINDOWS[2]
    rng = np.random.default_rng(0)
    x = tf.constant(rng.standard_normal((3, 2, 7, 6, 2)))
    kernels = tf.constant(rng.standard_normal((3, *window.size, 2, 4)))

    def convolve(x, kernel):
        return products.convolution(x, kernel, window)

    @tf.function(jit_compile=jit_compile, autograph=False)
    def vectorized(x, kernels):
        return tf.vectorized_map(
            lambda task: derivatives(convolve, *task),
            (x, kernels),
            fallback_to_while_loop=False,
        )

    expected = zip(*map(lambda *t: derivatives(convolve, *t), x, kernels))
    for a, e in zip(vectorized(x, kernels), expected):
        np.testing.assert_allclose(a, tf.stack(e), rtol=1e-10, atol=1e-10)
