"""Convolutions as products of matrices, and others, which get a task axis.

With a kernel for each task, a convolution is no operation of TensorFlow's, but
a product of matrices is one with a batch axis. Each function equals a function
of `tf.nn` for channels in the last axis. Derivatives of any order are those of
slices and products.
"""

import math

import tensorflow as tf

from keras_maml.exact import built_in
from keras_maml.exact.gradients import custom_gradient
from keras_maml.exact.patches import fold
from keras_maml.exact.patches import patches


def matmul(a, b, transpose_b=False):
    """Returns the product of two matrices."""
    if transpose_b or not built_in.is_required():
        return tf.matmul(a, b, transpose_b=transpose_b)

    # LiteRT is several times as fast for a batch of one product.
    def batched(a, b, **transposed):
        pair = tf.expand_dims(a, 0), tf.expand_dims(b, 0)
        return tf.squeeze(tf.matmul(*pair, **transposed), 0)

    @custom_gradient
    def multiply(a, b):
        def gradient(d):
            return (
                batched(d, b, transpose_b=True),
                batched(a, d, transpose_a=True),
            )

        return batched(a, b), gradient

    return multiply(a, b)


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
        y = matmul(
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
    rows = matmul(
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


def pooled_patches(x, window):
    """Returns `patches` in which padding is the least number."""
    paddings = [axis.padding for axis in window.along(x.shape[1:-1])]
    if any(map(any, paddings)):
        paddings = [(0, 0), *paddings, (0, 0)]
        x = tf.pad(x, paddings, constant_values=x.dtype.min)
    return patches(x, window._replace(padding="VALID"))


def max_pooling(x, window):
    """Returns the maxima of the window, by channel.

    Of equal numbers, the first one gets the gradient, as in TensorFlow.

    Args:
        x: tensor `(N, *spatial, C)`.
        window: a `Window`.

    Returns:
        A tensor `(N, *places, C)`.
    """
    rows = pooled_patches(x, window)
    count = math.prod(window.size)
    rows = tf.reshape(rows, [-1, *rows.shape[1:-1], count, x.shape[-1]])
    first = tf.argmax(rows, -2)[..., tf.newaxis, :]
    is_first = tf.range(count, dtype=first.dtype)[:, tf.newaxis] == first
    return tf.reduce_sum(tf.where(is_first, rows, tf.zeros_like(rows)), -2)


def mean_pooling(x, window):
    """Returns the means of the window, by channel, without what is padding.

    Args:
        x: tensor `(N, *spatial, C)`.
        window: a `Window`.

    Returns:
        A tensor `(N, *places, C)`.
    """
    ones = tf.ones([1, *x.shape[1:-1], 1], x.dtype)
    counts = tf.reduce_sum(patches(ones, window), -1, keepdims=True)
    rows = patches(x, window)
    shape = [-1, *rows.shape[1:-1], math.prod(window.size), x.shape[-1]]
    return tf.reduce_sum(tf.reshape(rows, shape), -2) / counts


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
