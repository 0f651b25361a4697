import numpy as np
import pytest
import tensorflow as tf

from keras_maml.exact.lowering import exact_ops

SHAPES = {
    "convolution": [(3, 3, 4, 4)],
    "depthwise_conv2d": [(3, 3, 4, 2)],
    "separable_conv2d": [(3, 3, 4, 2), (1, 1, 8, 4)],
}


def fill_freed_memory_with_nan():
    for size in (16, 64, 144, 288, 576, 1024):
        tf.fill([size], float("nan"))


def filter_gradients(name, dtype, width, spatial=2):
    generator = np.random.default_rng(0)
    sides = [2, width][-spatial:]
    x = tf.constant(generator.standard_normal((3, *sides, 4)), dtype)
    filters = [
        tf.constant(generator.standard_normal(shape[2 - spatial :]), dtype)
        for shape in SHAPES[name]
    ]
    stride = [1, 2, 2, 1] if name != "convolution" else 2
    with exact_ops(), tf.GradientTape() as tape:
        tape.watch(filters)
        y = getattr(tf.nn, name)(x, *filters, strides=stride, padding="SAME")
        fill_freed_memory_with_nan()
    assert y.dtype == dtype
    return [g.numpy().astype("float64") for g in tape.gradient(y, filters)]


# TensorFlow's kernel left these gradients unwritten.
@pytest.mark.parametrize(
    ("name", "spatial"),
    [(name, 2) for name in SHAPES] + [("convolution", 1)],
)
def test_filter_gradients_of_images_narrower_than_the_stride(name, spatial):
    for _ in range(4):
        actual = filter_gradients(name, tf.bfloat16, 1, spatial)
        expected = filter_gradients(name, tf.float64, 1, spatial)
        for a, e in zip(actual, expected):
            np.testing.assert_allclose(a, e, rtol=0.1, atol=0.1)


def test_only_such_images_are_computed_in_float32():
    def dtypes(dtype, shape, **settings):
        graph = tf.Graph()
        with graph.as_default(), exact_ops():
            x = tf.compat.v1.placeholder(dtype, shape)
            tf.nn.convolution(x, tf.zeros([3, 3, 4, 4], dtype), **settings)
        operations = graph.get_operations()
        return {o.outputs[0].dtype for o in operations if o.type == "Conv2D"}

    same = {"strides": 2, "padding": "SAME"}
    assert dtypes(tf.bfloat16, (3, 5, 1, 4), **same) == {tf.float32}
    assert dtypes(tf.bfloat16, (3, 5, None, 4), **same) == {tf.float32}
    assert dtypes(tf.bfloat16, (3, 5, 2, 4), **same) == {tf.bfloat16}
    assert dtypes(tf.bfloat16, (3, 5, 3, 4), strides=2) == {tf.bfloat16}
    assert dtypes(tf.float16, (3, 5, 1, 4), **same) == {tf.float16}
    stride_one = {"strides": 1, "padding": "SAME"}
    assert dtypes(tf.bfloat16, (3, 5, 1, 4), **stride_one) == {tf.bfloat16}
