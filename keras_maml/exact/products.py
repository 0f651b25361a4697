"""Convolutions as products of matrices, and others, which get a task axis.

With a kernel for each task, a convolution is no operation of TensorFlow's, but
a product of matrices is one with a batch axis. Each function equals a function
of `tf.nn` for channels in the last axis. Derivatives of any order are those of
slices and products.
"""

import math

import tensorflow as tf

from keras_maml.exact.patches import fold
from keras_maml.exact.patches import patches


def convolution(x, kernel, window):
    """Returns the convolution of images, in groups of channels if need be.

    Args:
        x: tensor `(N, *spatial, C)`.
        kernel: tensor `(*window.size, C / groups, F)`.
        window: a `Window`.

    Returns:
        A tensor `(N, *places, F)`.
    """
    *_, channels, filters = kernel.shape
    groups = x.shape[-1] // channels
    rows = patches(x, window)
    places = rows.shape[1:-1]
    if groups == 1:
        y = tf.matmul(
            tf.reshape(rows, [-1, rows.shape[-1]]),
            tf.reshape(kernel, [-1, filters]),
        )
    else:
        y = tf.einsum(
            "npgc,pcgf->ngf",
            tf.reshape(rows, [-1, math.prod(window.size), groups, channels]),
            tf.reshape(kernel, [-1, channels, groups, filters // groups]),
        )
    return tf.reshape(y, [-1, *places, filters])


def transposed_convolution(x, kernel, window, image):
    """Returns the transpose of `convolution`.

    Args:
        x: tensor `(N, *places, F)`.
        kernel: tensor `(*window.size, C, F)`.
        window: a `Window`.
        image: tuple of ints, the spatial dimensions of a result.

    Returns:
        A tensor `(N, *image, C)`.
    """
    filters = kernel.shape[-1]
    rows = tf.matmul(
        tf.reshape(x, [-1, filters]),
        tf.reshape(kernel, [-1, filters]),
        transpose_b=True,
    )
    rows = tf.reshape(rows, [-1, *x.shape[1:-1], rows.shape[-1]])
    return fold(rows, window, image)


def depthwise_convolution(x, kernel, window):
    """Returns the convolution of each channel by itself.

    Args:
        x: tensor `(N, *spatial, C)`.
        kernel: tensor `(*window.size, C, M)`.
        window: a `Window`.

    Returns:
        A tensor `(N, *places, C * M)`.
    """
    *_, channels, multiplier = kernel.shape
    rows = patches(x, window)
    places = rows.shape[1:-1]
    rows = tf.reshape(rows, [-1, math.prod(window.size), channels, 1])
    kernel = tf.reshape(kernel, [-1, channels, multiplier])
    y = tf.reduce_sum(rows * kernel, 1)
    return tf.reshape(y, [-1, *places, channels * multiplier])


def max_pooling(x, window):
    """Returns the maxima of the window, by channel.

    Of equal numbers, the first one gets the gradient, as in TensorFlow.

    Args:
        x: tensor `(N, *spatial, C)`.
        window: a `Window`.

    Returns:
        A tensor `(N, *places, C)`.
    """
    paddings = [axis.padding for axis in window.along(x.shape[1:-1])]
    if any(map(any, paddings)):
        paddings = [(0, 0), *paddings, (0, 0)]
        x = tf.pad(x, paddings, constant_values=x.dtype.min)
    count = math.prod(window.size)
    rows = patches(x, window._replace(padding="VALID"))
    rows = tf.reshape(rows, [-1, *rows.shape[1:-1], count, x.shape[-1]])
    first = tf.argmax(rows, -2)[..., tf.newaxis, :]
    is_first = tf.range(count, dtype=first.dtype)[:, tf.newaxis] == first
    return tf.reduce_sum(tf.where(is_first, rows, tf.zeros_like(rows)), -2)


def resized(images, height, width):
    """Returns images resized by matrices.

    Args:
        images: tensor `(N, H, W, C)`.
        height: tensor `(H, new H)`.
        width: tensor `(W, new W)`.

    Returns:
        A tensor `(N, new H, new W, C)`.
    """
    return tf.einsum("nhwc,hi,wj->nijc", images, height, width)
