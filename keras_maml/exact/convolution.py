"""Convolution whose gradient with respect to the kernel is a matrix product."""

import math

import numpy as np
import tensorflow as tf

# Patches of so many elements or fewer: of larger ones (omni20w1s's second and
# third layers in `benchmarks`), TensorFlow's own kernel was no slower.
_MAX_PATCHES = 150_000

# A convolution copies small patches of few channels faster than a gather does.
_MIN_GATHERED_CHANNELS = 8
_MAX_CONVOLVED_PATCH = 64


def supports(x, kernel, strides, padding):
    """Whether `convolution` computes this one, and faster than TensorFlow.

    That is so on CPUs, where patches are few: where a task has few images, and
    small ones.
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
        or any(d.device_type != "CPU" for d in tf.config.list_logical_devices())
    ):
        return False
    counts = [
        _count(*side, padding)
        for side in zip(x.shape[1:3], kernel.shape[:2], strides)
    ]
    patches = x.shape[0] * math.prod(counts)
    return 0 < patches * math.prod(kernel.shape[:3]) <= _MAX_PATCHES


def convolution(x, kernel, strides, padding):
    """`tf.nn.conv2d` of few small images, as those of one task.

    Of the three operations that a convolution and its gradients consist of,
    TensorFlow's gradient with respect to the kernel is the slowest. Here it is
    the images' patches times the gradient with respect to the output.

    Exactly differentiable any number of times: all three are bilinear, and
    the derivatives of each are the other two.

    Args:
        x: float tensor `(N, H, W, C)`.
        kernel: tensor `(h, w, C, F)`.
        strides: list of two ints.
        padding: `"SAME"` or `"VALID"`.

    Returns:
        A tensor `(N, H', W', F)`.
    """
    x_shape, kernel_shape = x.shape, kernel.shape

    @tf.custom_gradient
    def forward(x, kernel):
        def gradient(d_y):
            return input_gradient(d_y, kernel), kernel_gradient(x, d_y)

        return tf.nn.conv2d(x, kernel, strides, padding), gradient

    @tf.custom_gradient
    def input_gradient(d_y, kernel):
        def gradient(d_x):
            return forward(d_x, kernel), kernel_gradient(d_x, d_y)

        value = tf.raw_ops.Conv2DBackpropInput(
            input_sizes=x_shape,
            filter=kernel,
            out_backprop=d_y,
            strides=[1, *strides, 1],
            padding=padding,
        )
        return value, gradient

    @tf.custom_gradient
    def kernel_gradient(x, d_y):
        def gradient(d_kernel):
            return input_gradient(d_y, d_kernel), forward(x, d_kernel)

        patches = _patches(x, kernel_shape[:2], strides, padding)
        rows = tf.reshape(d_y, [-1, kernel_shape[-1]])
        product = tf.matmul(patches, rows, transpose_a=True)
        return tf.reshape(product, kernel_shape), gradient

    return forward(x, kernel)


def _patches(x, window, strides, padding):
    """What the kernel meets at each place: `(N H' W', h w C)`."""
    images, height, width, channels = x.shape
    size = math.prod(window) * channels
    if channels < _MIN_GATHERED_CHANNELS and size <= _MAX_CONVOLVED_PATCH:
        # Each output of this kernel is one of the elements that it meets.
        kernel = tf.reshape(
            tf.eye(size, dtype=x.dtype), [*window, channels, size]
        )
        return tf.reshape(tf.nn.conv2d(x, kernel, strides, padding), [-1, size])
    row = _places(height, window[0], strides[0], padding)[:, None, :, None]
    column = _places(width, window[1], strides[1], padding)[None, :, None, :]
    outside = (row < 0) | (row >= height) | (column < 0) | (column >= width)
    image = np.arange(images).reshape(-1, 1, 1, 1, 1)
    pixel = (image * height + row) * width + column
    table = tf.reshape(x, [-1, channels])
    if outside.any():
        # Outside there are zeros: one more row.
        pixel = np.where(outside, images * height * width, pixel)
        table = tf.concat([table, tf.zeros([1, channels], x.dtype)], 0)
    rows = tf.gather(table, pixel.reshape(-1).astype("int32"))
    return tf.reshape(rows, [-1, size])


def _places(length, window, stride, padding):
    """Coordinates under the window at each of its places."""
    count = _count(length, window, stride, padding)
    # As TensorFlow pads: the odd one at the end.
    beyond = max((count - 1) * stride + window - length, 0)
    return stride * np.arange(count)[:, None] + np.arange(window) - beyond // 2


def _count(length, window, stride, padding):
    """How many places a window has along a side."""
    if padding == "SAME":
        return -(-length // stride)
    return max(0, (length - window) // stride + 1)
