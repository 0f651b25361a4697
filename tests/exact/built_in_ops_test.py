"""The forms for LiteRT have TensorFlow's values and first derivatives."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_maml.exact import built_in
from keras_maml.exact import gathered_patches
from keras_maml.exact import lowering
from keras_maml.exact import patches
from tests.exact.patches_test import WINDOWS

IMAGE = (2, 7, 6, 3)
SEQUENCE = (2, 4, 3)
# Numbers that are often equal, as after a ReLU.
TIED = (2, 6, 6, 1)


def normal(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype("float32")


def pooling(kind, ksize, strides, padding):
    # `exact_ops` replaces the function later.
    return lambda x: getattr(tf.nn, kind)(x, ksize, strides, padding)


# Operations that LiteRT does not have.
MISSING = re.compile("(ReluGrad|EluGrad|PoolGrad|SliceGrad|Relu6Grad|Backprop)")

CASES = {
    "relu": (lambda x: tf.nn.relu(x), SEQUENCE),
    "relu6": (lambda x: tf.nn.relu6(5 * x), SEQUENCE),
    "leaky_relu": (lambda x: tf.nn.leaky_relu(x, 0.3), SEQUENCE),
    "elu": (lambda x: tf.nn.elu(x), SEQUENCE),
    "gelu": (lambda x: tf.nn.gelu(x), SEQUENCE),
    "gelu, tanh": (lambda x: tf.nn.gelu(x, approximate=True), SEQUENCE),
    "matmul": (lambda x: tf.matmul(x, normal(3, 2) + x[0, :3, :2]), SEQUENCE),
    "max_pool": (pooling("max_pool", 2, 2, "VALID"), IMAGE),
    "max_pool, overlap": (pooling("max_pool", 3, 2, "SAME"), IMAGE),
    "avg_pool": (pooling("avg_pool", 2, 2, "VALID"), IMAGE),
    "avg_pool, overlap": (pooling("avg_pool", (3, 2), 1, "SAME"), IMAGE),
    "pool": (
        lambda x: tf.nn.pool(x, [2, 2], "AVG", [1, 2], "SAME"),
        IMAGE,
    ),
    "max_pool of volumes": (
        lambda x: tf.nn.max_pool(x[..., None], 2, 2, "SAME", "NDHWC"),
        IMAGE,
    ),
    "repeat": (lambda x: tf.repeat(x, 3, axis=1), SEQUENCE),
    "tile": (lambda x: tf.tile(x, [2, 1, 3]), SEQUENCE),
    "row": (lambda x: x[1], SEQUENCE),
    "slices": (lambda x: x[:, 1:3, ::2], SEQUENCE),
    "every third, and a new axis": (
        lambda x: x[0, 1:6:3, None, ..., -1],
        IMAGE,
    ),
    "nothing": (lambda x: x[:, 2:2], SEQUENCE),
    "conv, frozen": (
        lambda x: tf.nn.convolution(x, normal(3, 3, 3, 2), 2, "SAME"),
        IMAGE,
    ),
    "depthwise_conv2d": (
        lambda x: tf.nn.depthwise_conv2d(
            x, normal(3, 3, 3, 2), [1, 2, 2, 1], "SAME"
        ),
        IMAGE,
    ),
}


def value_and_gradient(function, x):
    with tf.GradientTape() as tape:
        tape.watch(x)
        with lowering.exact_ops():
            y = function(x)
        loss = tf.reduce_sum(tf.sin(y) + y)
    return y, tape.gradient(loss, x)


def traced(function, x):
    """Returns the results, and the operations of the graph."""
    graph = tf.function(
        lambda x: value_and_gradient(function, x), autograph=False
    ).get_concrete_function(tf.TensorSpec(x.shape, x.dtype))
    return graph(x), {o.type for o in graph.graph.get_operations()}


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient(name):
    function, shape = CASES[name]
    x = tf.constant(normal(*shape))
    expected = value_and_gradient(function, x)
    with built_in.required():
        actual, operations = traced(function, x)
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-5)
    assert not [name for name in operations if MISSING.search(name)]


def test_the_first_of_equal_numbers_gets_the_gradient():
    x = tf.constant(np.random.default_rng(0).integers(0, 2, TIED), "float32")
    function = pooling("max_pool", 2, 2, "VALID")
    expected = value_and_gradient(function, x)
    with built_in.required():
        actual = value_and_gradient(function, x)
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(a, e)


def test_a_kernel_that_moves_is_a_product():
    x, kernel = tf.constant(normal(2, 5, 5, 3)), tf.constant(normal(3, 3, 3, 4))

    def both(kernel):
        moved = kernel * 2.0
        return tf.nn.convolution(x, moved, 2, "SAME")

    expected = value_and_gradient(both, kernel)
    with built_in.required():
        actual, operations = traced(both, kernel)
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-5)
    # The filter of LiteRT's convolution would be packed at each call.
    assert "BatchMatMulV2" in operations
    assert "Conv2D" not in operations


def test_recurrent_layers_are_unrolled():
    layer = keras.layers.SimpleRNN(2)
    x = tf.constant(normal(2, 3, 2))
    expected = value_and_gradient(layer, x)
    with built_in.required():
        actual, operations = traced(layer, x)
    np.testing.assert_allclose(actual[1], expected[1], rtol=1e-5, atol=1e-6)
    assert not operations & {"While", "StatelessWhile", "StridedSliceGrad"}


@pytest.mark.parametrize("window", WINDOWS)
def test_patches_by_a_table_are_those_of_slices(window):
    x = tf.constant(normal(2, 7, 6, 3))
    expected = patches.patches(x, window)
    see, add = gathered_patches.linear_maps(window, (7, 6))
    np.testing.assert_array_equal(see(x), expected)
    np.testing.assert_allclose(
        add(expected), patches.fold(expected, window, (7, 6)), rtol=1e-6
    )
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = see(x)
    np.testing.assert_allclose(
        tape.gradient(y, x, expected), add(expected), rtol=1e-6
    )


def test_other_threads_and_times_have_the_usual_forms():
    assert not built_in.is_required()
    with built_in.required(), built_in.required():
        assert built_in.is_required()
    assert not built_in.is_required()
