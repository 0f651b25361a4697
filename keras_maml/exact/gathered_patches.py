"""The patches of images, gathered by a table of pixels.

LiteRT has no operation for the transpose of a strided slice. It has `GATHER`,
which copies the channels of a pixel at once, and is faster than slices. The sum
of patches is a gather as well: by a table of the places that see a pixel.
"""

import functools
import math

import numpy as np
import tensorflow as tf

from keras_maml.exact.constants import filled
from keras_maml.exact.constants import once_in_graph
from keras_maml.exact.gradients import custom_gradient


def linear_maps(window, image):
    """Returns `patches.patches` and `patches.fold`, each other's derivative."""
    image = tuple(image)
    places = [axis.stops for axis in window.along(image)]
    size = math.prod(window.size)

    @custom_gradient
    def see(x):
        channels = x.shape[-1]
        rows = tf.reshape(x, [-1, math.prod(image), channels])
        rows = _gathered(rows, _pixels, window, image)
        return tf.reshape(rows, [-1, *places, size * channels]), add

    @custom_gradient
    def add(y):
        channels = y.shape[-1] // size
        rows = tf.reshape(y, [-1, math.prod(places) * size, channels])
        rows = _gathered(rows, _readers, window, image)
        readers = _readers(window, image).shape[-1]
        if readers > 1:
            rows = tf.reshape(rows, [-1, math.prod(image), readers, channels])
            rows = tf.reduce_sum(rows, 2)
        return tf.reshape(rows, [-1, *image, channels]), see

    return see, add


def _gathered(rows, table, window, image):
    """Returns rows by a table, in which the row after the last is zeros."""
    _, count, channels = rows.shape
    if (table(window, image) == count).any():
        # Each image gets a row of zeros. A table for all images would be as
        # many times as long.
        images = tf.shape(rows)[0] if rows.shape[0] is None else rows.shape[0]
        if rows.shape[0] is None:
            zeros = tf.zeros([images, 1, channels], rows.dtype)
        else:
            zeros = filled(0.0, (images, 1, channels), rows.dtype)
        rows = tf.concat([rows, zeros], 1)
    indices = once_in_graph(_constant, table, window, image)
    return tf.gather(rows, indices, axis=1)


def _constant(table, *key):
    return tf.constant(table(*key).reshape(-1))


@functools.lru_cache(maxsize=64)
def _pixels(window, image):
    """Returns the pixels that each place of the window sees, `(P, K)`.

    Outside the image, the pixel is the one after the last.
    """
    coordinates, inside = np.zeros((1, 1), "int32"), np.ones((1, 1), bool)
    for length, axis in zip(image, window.along(image), strict=True):
        along = np.arange(axis.stops)[:, None] * axis.stride
        along = along + np.array(axis.starts)[None] - axis.padding[0]
        # The slower axes stand first, in places as in windows.
        coordinates = _outer(np.add, coordinates * length, along)
        inside = _outer(np.logical_and, inside, (along >= 0) & (along < length))
    return np.where(inside, coordinates, math.prod(image)).astype("int32")


def _outer(operation, a, b):
    joined = operation(a[:, None, :, None], b[None, :, None, :])
    return joined.reshape(len(a) * len(b), -1)


@functools.lru_cache(maxsize=64)
def _readers(window, image):
    """Returns the elements of patches that see each pixel, `(pixels, most)`.

    A pixel that fewer elements see has the one after the last in their place.
    """
    pixels = _pixels(window, image).reshape(-1)
    order = np.argsort(pixels, kind="stable")
    order = order[pixels[order] < math.prod(image)]
    counts = np.bincount(pixels[order], minlength=math.prod(image))
    firsts = np.cumsum(counts) - counts
    ranks = np.arange(len(order)) - firsts[pixels[order]]
    table = np.full(
        (math.prod(image), max(counts.max(initial=0), 1)), pixels.size
    )
    table[pixels[order], ranks] = order
    return table.astype("int32")
