"""Convolution whose gradient with respect to the kernel is a matrix product."""

import functools
import math

import numpy as np
import tensorflow as tf

from keras_maml import devices
from keras_maml.exact.constants import constant
from keras_maml.exact.constants import filled
from keras_maml.exact.constants import once_in_graph
from keras_maml.exact.gradients import custom_gradient

# The largest number of elements in all patches. For more elements, TensorFlow's
# kernel was as fast (second and third layer of omni20w1s in `benchmarks`).
_MAX_PATCHES = 150_000

# For small patches of few channels, a convolution is faster than a gather.
_MIN_GATHERED_CHANNELS = 8
_MAX_CONVOLVED_PATCH = 64


def supports(x, kernel, strides, padding):
    """Returns whether `convolution` supports these arguments and is faster.

    It is faster on CPUs for few patches: a task with few, small images.
    """
    if (
        x.dtype not in (tf.float32, tf.float64)
        or x.shape.rank != 4
        or kernel.shape.rank != 4
        or not x.shape.is_fully_defined()
        or not kernel.shape.is_fully_defined()
        or x.shape[-1] != kernel.shape[-2]
        or padding not in ("SAME", "VALID")
        or len(strides) != 2
        or min(strides) < 1
        or devices.accelerators()
    ):
        return False
    counts = [
        _count(*side, padding)
        for side in zip(x.shape[1:3], kernel.shape[:2], strides)
    ]
    patches = x.shape[0] * math.prod(counts)
    return 0 < patches * math.prod(kernel.shape[:3]) <= _MAX_PATCHES


def convolution(x, kernel, strides, padding):
    """Computes `tf.nn.conv2d` for few small images, as in one task.

    A convolution has three operations: the convolution itself, its gradient
    for the images and its gradient for the kernel. TensorFlow is slowest at
    the last one. This function computes it as the matrix product of the
    images' patches and the gradient for the output.

    The result has exact derivatives of any order, because each of the three
    operations is bilinear, and the other two are its derivatives.

    Args:
        x: float tensor `(N, H, W, C)`.
        kernel: tensor `(h, w, C, F)`.
        strides: list of two ints.
        padding: `"SAME"` or `"VALID"`.

    Returns:
        A tensor `(N, H', W', F)`.
    """
    x_shape, kernel_shape = x.shape, kernel.shape

    def patches(x):
        return _patches(x, kernel_shape[:2], strides, padding)

    @custom_gradient
    def forward(x, kernel):
        known = []

        def gradient(d_y):
            # Each derivative of these images needs the same patches.
            if not known or not _is_reachable(known[0]):
                known[:] = [patches(x)]
            return (
                input_gradient(d_y, kernel),
                kernel_gradient(x, d_y, known[0]),
            )

        return tf.nn.conv2d(x, kernel, strides, padding), gradient

    @custom_gradient
    def input_gradient(d_y, kernel):
        def gradient(d_x):
            return (
                forward(d_x, kernel),
                kernel_gradient(d_x, d_y, patches(d_x)),
            )

        value = tf.raw_ops.Conv2DBackpropInput(
            input_sizes=constant(tuple(x_shape), tf.int32),
            filter=kernel,
            out_backprop=d_y,
            strides=[1, *strides, 1],
            padding=padding,
        )
        return value, gradient

    @custom_gradient
    def kernel_gradient(x, d_y, patches):
        def gradient(d_kernel):
            return input_gradient(d_y, d_kernel), forward(x, d_kernel), None

        rows = _reshape(d_y, -1, kernel_shape[-1])
        product = tf.matmul(patches, rows, transpose_a=True)
        return _reshape(product, *kernel_shape), gradient

    return forward(x, kernel)


def _is_reachable(tensor):
    """Returns whether the graph here may read a tensor."""
    if tf.executing_eagerly():
        return True
    graph = tf.compat.v1.get_default_graph()
    while graph is not None and graph is not tensor.graph:
        graph = getattr(graph, "outer_graph", None)
    return graph is not None


def _patches(x, window, strides, padding):
    """Returns the patches of the images, `(N H' W', h w C)`."""
    channels = x.shape[-1]
    size = math.prod(window) * channels
    if size == channels and max(strides) == 1:
        return _reshape(x, -1, channels)
    if channels < _MIN_GATHERED_CHANNELS and size <= _MAX_CONVOLVED_PATCH:
        # Each filter of this kernel copies one element of a patch.
        kernel = tf.reshape(
            tf.eye(size, dtype=x.dtype), [*window, channels, size]
        )
        return _reshape(tf.nn.conv2d(x, kernel, strides, padding), -1, size)
    settings = tuple(x.shape[:3]), tuple(window), tuple(strides), padding
    pixels, reach_outside = _pixels(*settings)
    table = _reshape(x, -1, channels)
    if reach_outside:
        # One more row holds the zeros outside the images.
        zeros = filled(0.0, (1, channels), x.dtype)
        table = tf.raw_ops.ConcatV2(
            values=[table, zeros], axis=constant(0, tf.int32)
        )
    rows = tf.raw_ops.GatherV2(
        params=table,
        indices=once_in_graph(_pixels_constant, *settings),
        axis=constant(0, tf.int32),
    )
    return _reshape(rows, -1, size)


@functools.lru_cache(maxsize=64)
def _pixels(shape, window, strides, padding):
    """Returns the rows of pixels in patches, and whether some lie outside."""
    images, height, width = shape
    row = _places(height, window[0], strides[0], padding)[:, None, :, None]
    column = _places(width, window[1], strides[1], padding)[None, :, None, :]
    outside = (row < 0) | (row >= height) | (column < 0) | (column >= width)
    image = np.arange(images).reshape(-1, 1, 1, 1, 1)
    pixel = (image * height + row) * width + column
    # The row after the images.
    pixel = np.where(outside, images * height * width, pixel)
    return pixel.reshape(-1).astype("int32"), bool(outside.any())


def _pixels_constant(*settings):
    return tf.constant(_pixels(*settings)[0])


def _reshape(tensor, *shape):
    return tf.reshape(tensor, constant(shape, tf.int32))


def _places(length, window, stride, padding):
    """Returns the coordinates under the window at each of its places."""
    count = _count(length, window, stride, padding)
    # TensorFlow adds an odd pixel of padding at the end.
    padded = max((count - 1) * stride + window - length, 0)
    return stride * np.arange(count)[:, None] + np.arange(window) - padded // 2


def _count(length, window, stride, padding):
    """Returns the number of places that a window has along a side."""
    if padding == "SAME":
        return -(-length // stride)
    return max(0, (length - window) // stride + 1)
