"""Functions of `tf.nn` and its neighbours in forms that can get a task axis.

Each function takes the original first, then the original's arguments. Where it
has no form for the arguments, it calls the original. `lowering` chooses these
functions while a task is traced that `tf.vectorized_map` will vectorize.
"""

import itertools
import numbers

import tensorflow as tf

from keras_maml.exact import pads
from keras_maml.exact import products
from keras_maml.exact import random_numbers
from keras_maml.exact.gradients import custom_gradient
from keras_maml.exact.patches import Window
from keras_maml.exact.recurrent import rnn


def concat(original, values, axis, name="concat"):
    """`tf.concat` whose second derivative can get a task axis."""
    if not isinstance(values, (list, tuple)):
        return original(values, axis, name)
    # A number beside tensors has their dtype.
    dtype = next((v.dtype for v in values if tf.is_tensor(v)), None)
    tensors = [tf.convert_to_tensor(value, dtype) for value in values]
    axis = tf.get_static_value(axis)
    sizes = None if axis is None else [t.shape[axis] for t in tensors]
    if sizes is None or None in sizes or not tensors[0].dtype.is_floating:
        return original(values, axis, name)
    places = [slice(None)] * (axis % tensors[0].shape.rank)

    @custom_gradient
    def join(*tensors):
        return original(tensors, axis), lambda d: cut(d)

    @custom_gradient
    def cut(joined):
        ends = list(itertools.accumulate(sizes))
        parts = [
            joined[(*places, slice(end - size, end))]
            for size, end in zip(sizes, ends)
        ]
        return parts, lambda *d: join(*d)

    return join(*tensors)


def convolution(
    original,
    input,
    filters,
    strides=None,
    padding="VALID",
    data_format=None,
    dilations=None,
    name=None,
):
    """`tf.nn.convolution` as a product."""
    x, kernel = tf.convert_to_tensor(input), tf.convert_to_tensor(filters)
    window = _window(x, kernel, strides, padding, dilations, data_format)
    if window is None:
        return original(
            x, kernel, strides, padding, data_format, dilations, name
        )
    y = products.convolution(channels_last(x, data_format), kernel, window)
    return channels_as_in(y, data_format)


def conv_transpose(
    original,
    input,
    filters,
    output_shape,
    strides,
    padding="SAME",
    data_format=None,
    dilations=None,
    name=None,
):
    """`tf.nn.conv_transpose` as the transpose of a product."""
    x, kernel = tf.convert_to_tensor(input), tf.convert_to_tensor(filters)
    window = _window(x, kernel, strides, padding, dilations, data_format)
    shape = _static_sizes(output_shape)
    if window is None or shape is None or None in shape[1:]:
        return original(
            x,
            kernel,
            output_shape,
            strides,
            padding,
            data_format,
            dilations,
            name,
        )
    if _is_first(data_format):
        shape = [shape[0], *shape[2:], shape[1]]
    y = products.transposed_convolution(
        channels_last(x, data_format), kernel, window, tuple(shape[1:-1])
    )
    return channels_as_in(y, data_format)


def depthwise_conv2d(
    original,
    input,
    filter,
    strides,
    padding,
    data_format=None,
    dilations=None,
    name=None,
):
    """`tf.nn.depthwise_conv2d` as a sum of products."""
    x, kernel = tf.convert_to_tensor(input), tf.convert_to_tensor(filter)
    window = _window(x, kernel, strides, padding, dilations, data_format)
    if window is None:
        return original(
            x, kernel, strides, padding, data_format, dilations, name
        )
    y = products.depthwise_convolution(
        channels_last(x, data_format), kernel, window
    )
    return channels_as_in(y, data_format)


def separable_conv2d(
    original,
    input,
    depthwise_filter,
    pointwise_filter,
    strides,
    padding,
    data_format=None,
    dilations=None,
    name=None,
):
    """`tf.nn.separable_conv2d` as products."""
    arguments = (strides, padding, data_format, dilations)
    x, kernel = map(tf.convert_to_tensor, (input, depthwise_filter))
    if _window(x, kernel, strides, padding, dilations, data_format) is None:
        return original(x, kernel, pointwise_filter, *arguments, name)
    y = depthwise_conv2d(None, x, kernel, *arguments)
    return convolution(
        None, y, pointwise_filter, 1, "VALID", data_format=data_format
    )


def max_pool(
    original, input, ksize, strides, padding, data_format=None, name=None
):
    """`tf.nn.max_pool` of windows that overlap, with any derivative."""
    x = tf.convert_to_tensor(input)
    window = pooling_window(x, ksize, strides, padding, 1, data_format)
    if window is None:
        return original(x, ksize, strides, padding, data_format, name)
    y = products.max_pooling(channels_last(x, data_format), window)
    return channels_as_in(y, data_format)


def pool(
    original,
    input,
    window_shape,
    pooling_type,
    strides=None,
    padding="VALID",
    data_format=None,
    dilations=None,
    name=None,
):
    """`tf.nn.pool` for maxima."""
    x = tf.convert_to_tensor(input)
    settings = (strides, padding, data_format, dilations)
    window = pooling_window(
        x, window_shape, strides, padding, dilations, data_format
    )
    if window is None or pooling_type != "MAX":
        return original(x, window_shape, pooling_type, *settings, name)
    y = products.max_pooling(channels_last(x, data_format), window)
    return channels_as_in(y, data_format)


def resize(original, images, size, method="bilinear", *args, **kwargs):
    """`tf.image.resize` by a matrix for each side."""
    images = tf.convert_to_tensor(images)
    keeps_ratio = args[0] if args else kwargs.get("preserve_aspect_ratio")
    sides = _static_sizes(size)
    old_sides = images.shape[1:3].as_list() if images.shape.rank == 4 else None
    if (
        not images.dtype.is_floating
        or sides is None
        or old_sides is None
        or None in (*old_sides, *sides)
        or old_sides == sides
        or keeps_ratio
    ):
        return original(images, size, method, *args, **kwargs)
    matrices = []
    with tf.init_scope():
        for length, new_length in zip(old_sides, sides):
            # A column of an image is resized by itself.
            units = tf.reshape(tf.eye(length), [length, length, 1, 1])
            rows = original(units, [new_length, 1], method, *args, **kwargs)
            matrices.append(rows[:, :, 0, 0].numpy())
    # TensorFlow copies the nearest pixels, and computes others in float32.
    dtype = images.dtype if method == "nearest" else tf.float32
    matrices = [tf.cast(matrix, dtype) for matrix in matrices]
    return products.resized(tf.cast(images, dtype), *matrices)


def stateless_uniform(
    original,
    shape,
    seed,
    minval=0,
    maxval=None,
    dtype=tf.float32,
    name=None,
    alg="auto_select",
):
    """`tf.random.stateless_uniform`, the same numbers."""
    sizes = _static_sizes(shape)
    if sizes is None or None in sizes or alg != "auto_select":
        return original(shape, seed, minval, maxval, dtype, name, alg)
    return random_numbers.uniform(sizes, seed, minval, maxval, dtype)


def stateless_normal(
    original,
    shape,
    seed,
    mean=0.0,
    stddev=1.0,
    dtype=tf.float32,
    name=None,
    alg="auto_select",
):
    """`tf.random.stateless_normal`, the same numbers."""
    sizes = _static_sizes(shape)
    if sizes is None or None in sizes or alg != "auto_select":
        return original(shape, seed, mean, stddev, dtype, name, alg)
    return random_numbers.normal(sizes, seed, mean, stddev, dtype)


def stateless_dropout(
    original, x, rate, seed, rng_alg=None, noise_shape=None, name=None
):
    """`tf.nn.experimental.stateless_dropout`, the same numbers."""
    x = tf.convert_to_tensor(x)
    sizes = x.shape.as_list() if noise_shape is None else noise_shape
    sizes = _static_sizes(sizes)
    if (
        sizes is None
        or None in sizes
        or not isinstance(rate, numbers.Real)
        or rng_alg not in (None, "auto_select")
    ):
        return original(x, rate, seed, rng_alg, noise_shape, name)
    keep = random_numbers.uniform(sizes, seed, dtype=x.dtype) >= rate
    return tf.where(keep, x * (1.0 / (1.0 - rate)), tf.zeros([], x.dtype))


FUNCTIONS = {
    "concat": concat,
    "conv_transpose": conv_transpose,
    "convolution": convolution,
    "depthwise_conv2d": depthwise_conv2d,
    "pad": pads.pad,
    "pool": pool,
    "resize": resize,
    "rnn": rnn,
    "separable_conv2d": separable_conv2d,
    "stateless_dropout": stateless_dropout,
    "stateless_normal": stateless_normal,
    "stateless_uniform": stateless_uniform,
}


def _window(x, kernel, strides, padding, dilations, data_format):
    """Returns the `Window` of a convolution, or `None` if it has no form."""
    if kernel.shape.rank != x.shape.rank or not kernel.shape.is_fully_defined():
        return None
    size = list(kernel.shape[:-2])
    return pooling_window(x, size, strides, padding, dilations, data_format)


def pooling_window(x, size, strides, padding, dilations, data_format):
    """Returns the `Window` of a size, or `None` if there is no form."""
    rank = x.shape.rank
    if (
        rank not in (3, 4, 5)
        or not x.shape[1:].is_fully_defined()
        or not x.dtype.is_floating
        or padding not in ("SAME", "VALID")
    ):
        return None
    settings = (size, strides, dilations)
    return Window(*(_each(s, rank, data_format) for s in settings), padding)


def _each(setting, rank, data_format):
    """Returns a stride or a dilation of each dimension of an image."""
    if setting is None:
        setting = 1
    if isinstance(setting, numbers.Integral):
        setting = [setting]
    setting = [int(number) for number in setting]
    if len(setting) == 1:
        return tuple(setting * (rank - 2))
    if len(setting) == rank:
        setting = setting[2:] if _is_first(data_format) else setting[1:-1]
    return tuple(setting)


def _is_first(data_format):
    return data_format is not None and data_format.startswith("NC")


def channels_last(x, data_format):
    """Returns images with their channels in the last axis."""
    if not _is_first(data_format):
        return x
    return tf.transpose(x, [0, *range(2, x.shape.rank), 1])


def channels_as_in(y, data_format):
    """Returns the result of `channels_last` in a format again."""
    if not _is_first(data_format):
        return y
    return tf.transpose(y, [0, y.shape.rank - 1, *range(1, y.shape.rank - 1)])


def _static_sizes(shape):
    """Returns a list of ints, `None` for what is unknown; or `None`."""
    if isinstance(shape, (list, tuple)):
        sizes = [tf.get_static_value(size) for size in shape]
    else:
        sizes = tf.get_static_value(shape)
    if sizes is None:
        return None
    return [None if size is None else int(size) for size in sizes]
