"""The stand-ins for functions of `tf.nn`."""

import threading

import numpy as np
import pytest
import tensorflow as tf

from keras_maml.exact import lowering


def test_moments_equal_tensorflows_in_value():
    x = tf.constant(np.random.default_rng(0).standard_normal((4, 3, 2)))
    for axes in ([0], [0, 1], [-1]):
        for keepdims in (True, False):
            expected = tf.nn.moments(x, axes, keepdims=keepdims)
            with lowering.exact_ops():
                actual = tf.nn.moments(x, axes, keepdims=keepdims)
            for a, e in zip(actual, expected):
                np.testing.assert_allclose(a, e, rtol=1e-12)
    half = tf.cast(x * 300, tf.float16)
    with lowering.exact_ops():
        mean, variance = tf.nn.moments(half, [0])
    assert mean.dtype == variance.dtype == tf.float16
    np.testing.assert_allclose(
        mean, np.mean(half.numpy().astype("f"), 0), rtol=1e-3
    )


def test_exact_ops_leave_only_after_the_last():
    original = tf.nn.moments
    entered, leave = threading.Event(), threading.Event()

    def other():
        with lowering.exact_ops():
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with lowering.exact_ops():
        thread.start()
        entered.wait(10)
    assert tf.nn.moments is not original
    leave.set()
    thread.join()
    assert tf.nn.moments is original
    with pytest.raises(RuntimeError, match="inside"):
        with lowering.exact_ops():
            raise RuntimeError("inside")
    assert tf.nn.moments is original


@pytest.mark.parametrize("data_format", [None, "NHWC", "NCHW"])
def test_bias_add_has_every_derivative(data_format):
    rng = np.random.default_rng(0)
    value = tf.constant(rng.standard_normal((2, 3, 4, 3)))
    bias = tf.constant(rng.standard_normal(3))

    def derivatives(add):
        with tf.GradientTape() as outer:
            outer.watch([value, bias])
            with tf.GradientTape() as inner:
                inner.watch([value, bias])
                y = add(value, bias, data_format=data_format)
                loss = tf.reduce_sum(tf.sin(y))
            gradients = inner.gradient(loss, [value, bias])
            total = sum(tf.reduce_sum(tf.sin(g)) for g in gradients)
        return [y, *gradients, *outer.gradient(total, [value, bias])]

    expected = derivatives(tf.nn.bias_add)
    with lowering.exact_ops():
        actual = derivatives(tf.nn.bias_add)
    for a, e in zip(actual, expected):
        np.testing.assert_allclose(a, e, rtol=1e-12)


def both(name, x, *arguments, **kwargs):
    """Values and two derivatives, of `lowering`'s function and TensorFlow's."""

    def derivatives():
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                y = getattr(tf.nn, name)(x, *arguments, **kwargs)
                loss = tf.reduce_sum(tf.sin(y))
            gradient = inner.gradient(loss, x)
            total = tf.reduce_sum(tf.exp(gradient))
        return y, gradient, outer.gradient(total, x)

    expected = derivatives()
    with lowering.exact_ops():
        actual = derivatives()
    return actual, expected


def test_relu_equals_tensorflows():
    x = tf.constant(np.random.default_rng(0).standard_normal((4, 5)))
    for a, e in zip(*both("relu", x)):
        np.testing.assert_allclose(a, e, rtol=1e-12)


def test_resize_has_every_derivative():
    # Resizing is linear, y = A x. TensorFlow has no second derivative of it.
    rng = np.random.default_rng(0)
    x = tf.constant(rng.standard_normal((2, 3, 4, 1)), tf.float32)

    def resize(x):
        return tf.image.resize(x, (5, 6), "bilinear")

    units = tf.reshape(tf.eye(12), (12, 3, 4, 1))
    matrix = tf.reshape(resize(units), (12, 30))
    flat = tf.reshape(x, (2, 12))
    wanted = tf.matmul(tf.cos(flat @ matrix), matrix, transpose_b=True)
    curved = -tf.sin(flat @ matrix) * (tf.exp(wanted) @ matrix)
    wanted_second = tf.matmul(curved, matrix, transpose_b=True)
    with lowering.exact_ops(), tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            loss = tf.reduce_sum(tf.sin(resize(x)))
        gradient = inner.gradient(loss, x)
        total = tf.reduce_sum(tf.exp(gradient))
    for actual, expected in (
        (gradient, wanted),
        (outer.gradient(total, x), wanted_second),
    ):
        np.testing.assert_allclose(
            tf.reshape(actual, (2, 12)), expected, rtol=1e-5, atol=1e-6
        )


def test_relu_masks_what_its_gradient_is_multiplied_with():
    # The derivative for x passes the mask a second time, and that for w not.
    rng = np.random.default_rng(0)
    x, w = tf.constant(rng.standard_normal((2, 4, 5)))

    def second():
        with tf.GradientTape() as outer:
            outer.watch(w)
            with tf.GradientTape() as inner:
                inner.watch(x)
                loss = tf.reduce_sum(w * tf.nn.relu(x))
            gradient = inner.gradient(loss, x)
            total = tf.reduce_sum(tf.exp(gradient))
        return outer.gradient(total, w)

    expected = second()
    with lowering.exact_ops():
        np.testing.assert_allclose(second(), expected, rtol=1e-12)
    assert np.any(expected == 0)


@pytest.mark.parametrize(
    ("window", "step", "padding"),
    [
        (2, 2, "VALID"),
        ([3, 2], [3, 2], "VALID"),
        (2, 3, "VALID"),
        (2, 2, "SAME"),
        (4, 4, "SAME"),
        ([1, 2, 2, 1], [1, 2, 2, 1], "VALID"),
        (3, 2, "VALID"),
        (3, 3, "SAME"),
    ],
)
def test_max_pool_equals_tensorflows(window, step, padding):
    # Small integers: with ties.
    rng = np.random.default_rng(0)
    x = tf.constant(rng.integers(0, 3, (2, 8, 10, 3)).astype("float64"))
    for a, e in zip(*both("max_pool", x, window, step, padding)):
        np.testing.assert_allclose(a, e, rtol=1e-12)


@pytest.mark.parametrize("shape", [(2, 8, 3), (2, 6, 5, 3)])
def test_max_pool_that_keeps_the_size_has_a_second_derivative(shape):
    """If TensorFlow's own is right by now, the library's can go."""
    rng = np.random.default_rng(0)
    x, direction = map(tf.constant, rng.standard_normal((2, *shape)))

    def total(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(tf.sin(tf.nn.max_pool(x, 3, 1, "SAME")))
        return tf.reduce_sum(tf.cos(tape.gradient(loss, x)))

    def slope(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            result = total(x)
        return tf.reduce_sum(tape.gradient(result, x) * direction)

    step = 1e-6 * direction
    right = float(total(x + step) - total(x - step)) / 2e-6
    if len(shape) == 4:
        wrong = tf.function(slope, autograph=False)(x)
        assert abs(float(wrong) - right) > 0.1

    # Around a `tf.function`, the exact operations would run it inline.
    @tf.function(autograph=False)
    def exact(x):
        with lowering.exact_ops():
            return slope(x)

    assert float(exact(x)) == pytest.approx(right, rel=1e-6)


def test_a_thread_that_did_not_enter_gets_tensorflows_own():
    ragged = tf.ragged.constant([[-1.0, 2.0], [3.0]])
    expected = tf.nn.relu(ragged)
    found = {}

    def other():
        found["ragged"] = tf.nn.relu(ragged)
        x = tf.constant([[1.0], [4.0]])
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                _, variance = tf.nn.moments(x, [0])
            slope = inner.gradient(variance, x)
        found["second"] = outer.gradient(slope, x).numpy()

    with lowering.exact_ops():
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        # Nor does the thread that entered lose what is not dense.
        inside = tf.nn.relu(ragged)
    for actual in (found["ragged"], inside):
        np.testing.assert_array_equal(actual.flat_values, expected.flat_values)
    # TensorFlow's own second derivative, with the term that it loses.
    np.testing.assert_allclose(found["second"], [[1.0], [1.0]])


def test_a_gradient_without_a_shape_reaches_a_bias():
    @tf.custom_gradient
    def opaque(x):
        def gradient(d_y):
            return tf.py_function(lambda d: d, [d_y], tf.float32)

        return x * 2.0, gradient

    @tf.function
    def gradient(x, bias):
        with tf.GradientTape() as tape:
            tape.watch(bias)
            y = opaque(tf.nn.bias_add(x, bias))
        return tape.gradient(y, bias)

    with lowering.exact_ops():
        total = gradient(tf.ones([3, 2]), tf.zeros([2]))
    np.testing.assert_allclose(total, [3.0, 3.0])


def in_a_loop_relu(x, weight):
    return tf.nn.relu(x * weight[0, 0, 0] ** 2 + 0.1)


def in_a_loop_convolution(x, weight):
    return tf.tanh(tf.nn.convolution(x, weight, 1, "SAME", "NHWC"))


def in_a_loop_max_pool(x, weight):
    pooled = tf.nn.max_pool(x, 2, 2, "VALID")
    return tf.tanh(tf.repeat(tf.repeat(pooled, 2, 1), 2, 2) * weight[0, 0, 0])


@pytest.mark.parametrize(
    "step", [in_a_loop_relu, in_a_loop_convolution, in_a_loop_max_pool]
)
def test_second_derivatives_go_through_a_loop(step):
    # As those of recurrent layers do.
    rng = np.random.default_rng(0)
    images = tf.constant(rng.standard_normal((2, 4, 4, 2)))
    weight = tf.constant(rng.standard_normal((3, 3, 2, 2)))

    def loop(weight):
        return tf.while_loop(
            lambda i, _: i < 3,
            lambda i, x: (i + 1, step(x, weight)),
            (tf.constant(0), images),
            maximum_iterations=3,
        )[1]

    def unrolled(weight):
        x = images
        for _ in range(3):
            x = step(x, weight)
        return x

    def second_derivative(function):
        with tf.GradientTape() as outer:
            outer.watch(weight)
            with tf.GradientTape() as inner:
                inner.watch(weight)
                loss = tf.reduce_sum(function(weight) ** 2)
            gradient = inner.gradient(loss, weight)
            loss = tf.reduce_sum(gradient**2)
        return outer.gradient(loss, weight)

    @tf.function(autograph=False)
    def in_graph():
        with lowering.exact_ops():
            return second_derivative(loop)

    expected = second_derivative(unrolled)
    assert np.any(expected.numpy() != 0)
    np.testing.assert_allclose(in_graph(), expected, rtol=1e-9, atol=1e-9)
