"""Functions of `tf.nn` in forms for a task axis, against the originals."""

import functools
import re

import numpy as np
import pytest
import tensorflow as tf

from keras_maml.exact import lowering
from keras_maml.exact import task_axis
from keras_maml.exact import vectorized_ops

X = tf.random.stateless_normal((2, 6, 5, 4), (0, 0))
KERNEL = tf.random.stateless_normal((3, 2, 4, 3), (0, 1))


@pytest.fixture
def calls(monkeypatch):
    """The names of the originals that were called."""
    calls = []

    def recording(name, original):
        @functools.wraps(original)
        def call(*args, **kwargs):
            calls.append(name)
            return original(*args, **kwargs)

        return call

    originals = dict(lowering._ORIGINALS)
    for name in vectorized_ops.FUNCTIONS:
        original = recording(name, originals[name])
        monkeypatch.setitem(lowering._ORIGINALS, name, original)
        monkeypatch.setitem(
            lowering._DISPATCHERS, name, lowering._dispatcher(name)
        )
        monkeypatch.setitem(lowering._ORIGINALS, name, originals[name])
    return calls


def both(function):
    """The results with and without the forms for a task axis."""
    expected = function()
    with lowering.exact_ops(), task_axis.vectorized():
        actual = function()
    assert actual.dtype == expected.dtype
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


SUPPORTED = {
    "convolution": lambda: tf.nn.convolution(X, KERNEL, [2, 1], "SAME"),
    "strides of all axes": lambda: tf.nn.convolution(
        X, KERNEL, [1, 2, 1, 1], "VALID", "NHWC", [1, 1, 1, 1]
    ),
    "transposed": lambda: tf.nn.conv_transpose(
        X, tf.transpose(KERNEL, [0, 1, 3, 2]), [2, 12, 10, 3], 2, "SAME"
    ),
    "depthwise": lambda: tf.nn.depthwise_conv2d(
        X, KERNEL, [1, 2, 2, 1], "SAME"
    ),
    "separable": lambda: tf.nn.separable_conv2d(
        X,
        KERNEL,
        tf.reshape(tf.range(24.0), [1, 1, 12, 2]),
        [1, 1, 1, 1],
        "VALID",
        dilations=[2, 2],
    ),
    "maxima": lambda: tf.nn.max_pool(X, 3, 2, "SAME"),
    "maxima of rows": lambda: tf.nn.max_pool(X[0], 2, 2, "VALID"),
    "dilated maxima": lambda: tf.nn.pool(X, [2, 2], "MAX", dilations=[2, 1]),
    "uniform": lambda: tf.random.stateless_uniform([3], (1, 2), 1, 4),
    "normal": lambda: tf.random.stateless_normal([3], (1, 2), 1.0, 2.0),
    "dropout": lambda: tf.nn.experimental.stateless_dropout(
        X, 0.3, (1, 2), noise_shape=[2, 1, 1, 4]
    ),
    "half of the dropout": lambda: tf.cast(
        tf.nn.experimental.stateless_dropout(
            tf.cast(X, tf.float16), 0.5, (1, 2)
        ),
        tf.float32,
    ),
    "concat": lambda: tf.concat([X, 2.0 * X], -2),
    "a concat with numbers": lambda: tf.concat(
        [tf.cast(X[0, 0], tf.float64), [[0.5] * 4]], 0
    ),
    "pad": lambda: tf.pad(
        X, tf.constant([[0, 0], [1, 2], [0, 3], [4, 0]]), constant_values=2.0
    ),
    "a mirroring pad": lambda: tf.pad(
        X, [[0, 0], [1, 2], [0, 3], [2, 0]], "REFLECT"
    ),
    "a pad that mirrors the edge": lambda: tf.pad(
        X, [[1, 0], [1, 2], [0, 3], [2, 0]], "symmetric"
    ),
}


@pytest.mark.parametrize("name", SUPPORTED)
def test_a_form_equals_the_original(name, calls):
    both(SUPPORTED[name])
    assert set(calls) <= {"concat", "pad"}


@pytest.mark.parametrize(
    ("paddings", "mode"),
    [
        ([[0, 0], [1, 1], [0, 0], [0, 0]], "EDGE"),
        ([[0, 0], [-1, 1], [0, 0], [0, 0]], "REFLECT"),
        ([[0, 0], [-1, -1], [0, 0], [0, 0]], "CONSTANT"),
        ([[1, 1]], "SYMMETRIC"),
        ([[0, 0], [6, 0], [0, 0], [0, 0]], "REFLECT"),
    ],
)
def test_wrong_pads_are_tensorflows_errors(paddings, mode):
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError)) as plain:
        tf.pad(X, paddings, mode)
    with (
        lowering.exact_ops(),
        task_axis.vectorized(),
        pytest.raises(plain.type, match=re.escape(str(plain.value))),
    ):
        tf.pad(X, paddings, mode)


def test_pads_of_scalars_and_of_unknown_sizes(calls):
    both(lambda: tf.pad(tf.constant(1.0), tf.zeros([0, 2], tf.int32)))
    calls.clear()

    def pads(x, y):
        return (
            tf.pad(x, [[0, 0], [1, 2]], "reflect"),
            tf.pad(x, [[1, 2], [0, 0]], "reflect"),
            tf.pad(y, [[1, 2], [0, 0]], "reflect"),
        )

    @tf.function(
        input_signature=[tf.TensorSpec([None, 3]), tf.TensorSpec(None)],
        autograph=False,
    )
    def vectorized(x, y):
        with lowering.exact_ops(), task_axis.vectorized():
            return pads(x, y)

    x = tf.reshape(tf.range(9.0), [3, 3])
    actual = vectorized(x, x)
    # Only the first one has a form.
    assert calls.count("pad") == 2
    for a, b in zip(actual, pads(x, x), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("method", ["bilinear", "nearest", "bicubic", "area"])
@pytest.mark.parametrize("antialias", [False, True])
def test_resizing(method, antialias):
    both(lambda: tf.image.resize(X, (4, 9), method, antialias=antialias))


def test_resizing_keeps_what_has_the_size():
    both(lambda: tf.image.resize(tf.cast(X, tf.float64), (6, 5)))
    both(lambda: tf.image.resize(tf.cast(X, tf.float64), (3, 5)))
    nearest = tf.random.stateless_normal(X.shape, (0, 2), dtype=tf.float64)
    both(lambda: tf.image.resize(nearest, (3, 7), "nearest"))


def test_channels_may_come_first():
    x = tf.transpose(X, [0, 3, 1, 2])
    pointwise = tf.reshape(tf.range(24.0), [1, 1, 12, 2])
    with lowering.exact_ops(), task_axis.vectorized():
        for first, last in (
            (
                tf.nn.convolution(x, KERNEL, [2, 1], "SAME", "NCHW"),
                tf.nn.convolution(X, KERNEL, [2, 1], "SAME"),
            ),
            (
                tf.nn.separable_conv2d(
                    x, KERNEL, pointwise, [1, 1, 2, 2], "SAME", "NCHW"
                ),
                tf.nn.separable_conv2d(
                    X, KERNEL, pointwise, [1, 2, 2, 1], "SAME"
                ),
            ),
            (
                tf.nn.conv_transpose(
                    x,
                    tf.transpose(KERNEL, [0, 1, 3, 2]),
                    [2, 3, 12, 10],
                    [1, 1, 2, 2],
                    "SAME",
                    "NCHW",
                ),
                tf.nn.conv_transpose(
                    X, tf.transpose(KERNEL, [0, 1, 3, 2]), [2, 12, 10, 3], 2
                ),
            ),
        ):
            np.testing.assert_allclose(
                tf.transpose(first, [0, 2, 3, 1]), last, rtol=1e-5
            )


UNSUPPORTED = {
    # Rows, in a batch of two axes.
    "convolution": lambda: tf.nn.convolution(X, KERNEL[0], 1, "SAME"),
    "depthwise_conv2d": lambda: tf.nn.depthwise_conv2d(
        X, KERNEL, [1, 1, 1, 1], [[0, 0], [1, 1], [0, 0], [0, 0]]
    ),
    "pool": lambda: tf.nn.pool(X, [2, 2], "AVG"),
    "resize": lambda: tf.image.resize(X, (4, 9), preserve_aspect_ratio=True),
    "stateless_uniform": lambda: tf.random.stateless_uniform(
        [3], (1, 2), alg="philox"
    ),
    "stateless_normal": lambda: tf.random.stateless_normal(
        [3], (1, 2), alg="philox"
    ),
    "stateless_dropout": lambda: tf.nn.experimental.stateless_dropout(
        X, tf.constant(0.5), (1, 2)
    ),
    "concat": lambda: tf.concat([tf.range(2), tf.range(3)], 0),
    "pad": lambda: tf.pad(tf.range(3), [[1, 2]]),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_the_rest_is_left_to_tensorflow(name, calls):
    both(UNSUPPORTED[name])
    assert calls == [name]


JOINED = {
    "concat": lambda x: tf.concat([x**2, tf.sin(x)], 0),
    "pad": lambda x: (
        tf.pad(x**2, [[2, 1]], constant_values=3.0)
        + tf.pad(tf.sin(x), [[0, 3]])
    ),
    "a mirroring pad": lambda x: tf.concat(
        [
            tf.pad(x**2, [[0, 2]], "SYMMETRIC") / 2**0.5,
            tf.pad(tf.sin(x), [[2, 0]], "SYMMETRIC") / 2**0.5,
        ],
        0,
    ),
}


@pytest.mark.parametrize("name", JOINED)
def test_a_second_derivative_gets_a_task_axis(name):
    def second(x):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                loss = tf.reduce_sum(JOINED[name](x) ** 2)
            gradient = inner.gradient(loss, x)
        return outer.gradient(gradient, x)

    @tf.function(jit_compile=True, autograph=False)
    def vectorized(rows):
        with lowering.exact_ops(), task_axis.vectorized():
            return tf.vectorized_map(second, rows, fallback_to_while_loop=False)

    rows = tf.constant([[0.1, 0.2], [0.3, 0.4]])
    expected = 12 * rows**2 + 2 * tf.cos(2 * rows)
    np.testing.assert_allclose(vectorized(rows), expected, rtol=1e-5)


def test_without_a_task_axis_nothing_changes(calls):
    with lowering.exact_ops():
        tf.nn.depthwise_conv2d(X, KERNEL, [1, 1, 1, 1], "SAME")
    assert calls == ["depthwise_conv2d"]
    assert not task_axis.is_vectorized()
