"""Functions of `tf.nn` and its neighbours, of LiteRT's built-in operations.

Each function takes the original first, then the original's arguments, as in
`vectorized_ops`. `lowering` chooses these functions while a task is traced for
LiteRT. Their first derivatives have built-in operations alone.
"""

import functools
import inspect
import math
import numbers

import tensorflow as tf

from keras_maml.exact import products
from keras_maml.exact import vectorized_ops
from keras_maml.exact.gradients import custom_gradient

# The arguments that may need a gradient.
_TENSORS = (
    "input",
    "filter",
    "filters",
    "depthwise_filter",
    "pointwise_filter",
)


def relu(original, features, name=None):
    """`tf.nn.relu`."""
    return _by_slope(
        lambda x: original(x, name),
        lambda x, y: tf.sign(y),
        features,
    )


def relu6(original, features, name=None):
    """`tf.nn.relu6`."""
    return _by_slope(
        lambda x: original(x, name),
        lambda x, y: tf.cast((y > 0) & (y < 6), x.dtype),
        features,
    )


def leaky_relu(original, features, alpha=0.2, name=None):
    """`tf.nn.leaky_relu`."""
    return _by_slope(
        lambda x: original(x, alpha, name),
        lambda x, y: tf.where(x > 0, tf.ones_like(x), alpha),
        features,
    )


def elu(original, features, name=None):
    """`tf.nn.elu`."""
    return _by_slope(
        lambda x: original(x, name),
        lambda x, y: tf.where(y < 0, y + 1, tf.ones_like(x)),
        features,
    )


def gelu(original, features, approximate=False, name=None):
    """`tf.nn.gelu`. LiteRT has x Φ(x), but no error function."""
    if approximate:
        return original(features, approximate, name)

    def slope(x, y):
        is_zero = tf.equal(x, 0)
        one = tf.ones_like(x)
        cdf = tf.where(is_zero, 0.5 * one, y / tf.where(is_zero, one, x))
        density = tf.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
        return cdf + x * density

    return _by_slope(lambda x: original(x, approximate, name), slope, features)


def _by_slope(function, slope, features):
    @custom_gradient
    def call(x):
        y = function(x)
        return y, lambda d_y: d_y * slope(x, y)

    return call(tf.convert_to_tensor(features))


def matmul(original, a, b, *args, **kwargs):
    """`tf.matmul` of matrices, in the form that LiteRT computes fastest."""
    settings = [*args, *kwargs.values()]
    is_plain = not any(settings) and tf.is_tensor(a) and tf.is_tensor(b)
    if (
        not is_plain
        or not a.dtype.is_floating
        or b.shape.rank != 2
        or not a.shape[1:].is_fully_defined()
    ):
        return original(a, b, *args, **kwargs)
    rows = tf.reshape(a, [-1, a.shape[-1]])
    product = products.matmul(rows, b)
    return tf.reshape(product, [-1, *a.shape[1:-1], b.shape[-1]])


def rnn(original, *args, **kwargs):
    """Keras's function `rnn`, unrolled."""
    bound = inspect.signature(original).bind(*args, **kwargs)
    return original(*bound.args, **{**bound.kwargs, "unroll": True})


def _pooling(kind):
    """Returns `tf.nn.avg_pool` or `tf.nn.max_pool` in the form of `pool`."""

    def pooled(
        original, input, ksize, strides, padding, data_format=None, name=None
    ):
        return pool(
            lambda x, *_: original(
                x, ksize, strides, padding, data_format, name
            ),
            input,
            ksize,
            kind,
            strides,
            padding,
            data_format,
        )

    return pooled


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
    """`tf.nn.pool` as maxima or means of patches."""
    x = tf.convert_to_tensor(input)
    settings = strides, padding, data_format, dilations
    window = vectorized_ops.pooling_window(
        x, window_shape, strides, padding, dilations, data_format
    )

    def value(x):
        return original(x, window_shape, pooling_type, *settings, name)

    def form(x):
        x = vectorized_ops.channels_last(x, data_format)
        pooling = {"AVG": products.mean_pooling, "MAX": _max_pooling}
        y = pooling[pooling_type](x, window)
        return vectorized_ops.channels_as_in(y, data_format)

    if window is None:
        return value(x)
    # LiteRT has no pooling of volumes.
    return form(x) if x.shape.rank == 5 else _derived(value, form, x)


def _max_pooling(x, window):
    """Of equal numbers, the first one gets the gradient, as in TensorFlow."""

    @custom_gradient
    def maxima(*parts):
        y = functools.reduce(tf.maximum, parts)

        def gradient(d_y):
            gradients = []
            for part in parts:
                # `sign` is -1 for what is less than the maximum.
                gradients.append(d_y * (1.0 + tf.sign(part - y)))
                d_y -= gradients[-1]
            return gradients

        return y, gradient

    rows = products.pooled_patches(x, window)
    return maxima(*tf.split(rows, math.prod(window.size), -1))


def repeat(original, input, repeats, axis=None, name=None):
    """`tf.repeat` along an axis, by the same number."""
    x = tf.convert_to_tensor(input)
    count = repeats
    is_number = isinstance(count, numbers.Integral)
    if axis is None or not is_number or not _is_known(x):
        return original(x, count, axis, name)
    axis %= x.shape.rank

    @custom_gradient
    def call(x):
        def gradient(d_y):
            sizes = x.shape.as_list()
            sizes.insert(axis + 1, count)
            return tf.reduce_sum(tf.reshape(d_y, sizes), axis + 1)

        return original(x, count, axis, name), gradient

    return call(x)


def tile(original, input, multiples, name=None):
    """`tf.tile`."""
    x = tf.convert_to_tensor(input)
    counts = tf.get_static_value(multiples)
    if counts is None or not _is_known(x):
        return original(x, multiples, name)
    counts = [int(count) for count in counts]

    @custom_gradient
    def call(x):
        def gradient(d_y):
            # One sum each: LiteRT fails with a sum over every second axis.
            for axis, count in enumerate(counts):
                if count != 1:
                    sizes = d_y.shape.as_list()
                    sizes[axis : axis + 1] = [count, sizes[axis] // count]
                    d_y = tf.reduce_sum(tf.reshape(d_y, sizes), axis)
            return d_y

        return original(x, counts, name), gradient

    return call(x)


def getitem(original, x, key, *args):
    """`x[key]`."""
    keys = list(key) if isinstance(key, tuple) else [key]
    if not _is_known(x) or not all(map(_is_plain, keys)):
        return original(x, key, *args)
    spread = _spreads(keys, x.shape.as_list())

    @custom_gradient
    def call(x):
        y = original(x, key, *args)
        return y, lambda d_y: spread(d_y)

    return call(x)


def _is_known(x):
    return x.dtype.is_floating and x.shape.is_fully_defined()


def _is_plain(key):
    if isinstance(key, slice):
        ends = (key.start, key.stop, key.step)
        whole = all(e is None or isinstance(e, numbers.Integral) for e in ends)
        return whole and (key.step is None or key.step > 0)
    is_integer = isinstance(key, numbers.Integral)
    return key is Ellipsis or key is None or is_integer


def _spreads(keys, shape):
    """Returns the transpose of `x[keys]`, for `x` of a shape."""
    taken = sum(key is not None and key is not Ellipsis for key in keys)
    if Ellipsis not in keys:
        keys = [*keys, Ellipsis]
    place = keys.index(Ellipsis)
    every = [slice(None)] * (len(shape) - taken)
    keys = [*keys[:place], *every, *keys[place + 1 :]]
    ranges = [
        range(size)[key] if isinstance(key, slice) else [range(size)[key]]
        for key, size in zip([k for k in keys if k is not None], shape)
    ]

    def spread(d):
        d = tf.reshape(d, [len(taken) for taken in ranges])
        for axis, (taken, size) in enumerate(zip(ranges, shape)):
            d = _placed(d, axis, taken, size)
        return d

    return spread


def _placed(d, axis, taken, size):
    """Puts elements along an axis at places, among zeros."""
    sizes = d.shape.as_list()
    if not len(taken):
        return tf.zeros([*sizes[:axis], size, *sizes[axis + 1 :]], d.dtype)
    step = taken[1] - taken[0] if len(taken) > 1 else 1
    if step > 1:
        apart = tf.expand_dims(d, axis + 1)
        apart = _padded(apart, axis + 1, 0, step - 1)
        sizes[axis] *= step
        d = tf.reshape(apart, sizes)
        last = [slice(None)] * axis
        d = d[(*last, slice(0, taken[-1] - taken[0] + 1))]
    return _padded(d, axis, taken[0], size - 1 - taken[-1])


def _padded(d, axis, before, after):
    if not before and not after:
        return d
    paddings = [[0, 0]] * d.shape.rank
    paddings[axis] = [before, after]
    return tf.pad(d, paddings)


def _by_products(form):
    """Returns a function whose derivative is that of another form.

    Args:
        form: function such as `pool`.
    """
    signature = inspect.signature(form)

    def call(original, *args, **kwargs):
        bound = signature.bind(original, *args, **kwargs).arguments
        names = [name for name in bound if name in _TENSORS]
        tensors = [tf.convert_to_tensor(bound[name]) for name in names]
        others = {
            name: value
            for name, value in bound.items()
            if name not in (*names, "original")
        }

        def value(*tensors):
            return original(**dict(zip(names, tensors)), **others)

        def product(*tensors):
            return form(original, **dict(zip(names, tensors)), **others)

        if form is vectorized_ops.convolution and _changes(tensors[1]):
            # The derivative shares the patches.
            return product(*tensors)
        return _derived(value, product, *tensors)

    return call


def _changes(kernel):
    """Returns whether a graph computes a kernel, which then adapts."""
    return kernel.op.type not in ("Const", "ReadVariableOp")


def _derived(value, form, *tensors):
    """Returns `value(*tensors)` with the derivative of `form(*tensors)`."""

    @custom_gradient
    def call(*tensors):
        def gradient(d_y):
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(tensors)
                y = form(*tensors)
            return tape.gradient(y, tensors, d_y)

        return value(*tensors), gradient

    return call(*tensors)


FUNCTIONS = {
    "__getitem__": getitem,
    "avg_pool": _pooling("AVG"),
    "elu": elu,
    "gelu": gelu,
    "leaky_relu": leaky_relu,
    "matmul": matmul,
    "max_pool": _pooling("MAX"),
    "pool": pool,
    "relu": relu,
    "relu6": relu6,
    "repeat": repeat,
    "resize": vectorized_ops.resize,
    "rnn": rnn,
    "tile": tile,
    **{
        name: _by_products(vectorized_ops.FUNCTIONS[name])
        for name in (
            "conv_transpose",
            "convolution",
            "depthwise_conv2d",
            "separable_conv2d",
        )
    },
}
