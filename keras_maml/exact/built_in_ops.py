"""Functions of `tf.nn` and its neighbours, of LiteRT's built-in operations.

Each function takes the original first, then the original's arguments, as in
`vectorized_ops`. `lowering` chooses these functions while a task is traced for
LiteRT. Their first derivatives have built-in operations alone.
"""

import functools
import inspect
import math

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


def avg_pool(
    original, input, ksize, strides, padding, data_format=None, name=None
):
    """`tf.nn.avg_pool` as a sum of patches."""
    window = vectorized_ops.pooling_window(
        input, ksize, strides, padding, 1, data_format
    )
    if window is None:
        return original(input, ksize, strides, padding, data_format, name)
    x = vectorized_ops.channels_last(input, data_format)
    y = products.mean_pooling(x, window)
    return vectorized_ops.channels_as_in(y, data_format)


def max_pool(
    original, input, ksize, strides, padding, data_format=None, name=None
):
    """`tf.nn.max_pool` as the maxima of patches.

    Of equal numbers, the first one gets the gradient, as in TensorFlow.
    """
    window = vectorized_ops.pooling_window(
        input, ksize, strides, padding, 1, data_format
    )
    if window is None:
        return original(input, ksize, strides, padding, data_format, name)

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

    x = vectorized_ops.channels_last(input, data_format)
    rows = products.pooled_patches(x, window)
    y = maxima(*tf.split(rows, math.prod(window.size), -1))
    return vectorized_ops.channels_as_in(y, data_format)


def _by_products(form):
    """Returns a function whose derivative is that of another form.

    Args:
        form: function such as `avg_pool`.
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
    "avg_pool": _by_products(avg_pool),
    "elu": elu,
    "leaky_relu": leaky_relu,
    "matmul": matmul,
    "relu": relu,
    "relu6": relu6,
    "resize": vectorized_ops.resize,
    "rnn": rnn,
    **{
        name: _by_products(vectorized_ops.FUNCTIONS[name])
        for name in (
            "conv_transpose",
            "convolution",
            "depthwise_conv2d",
            "pool",
            "separable_conv2d",
        )
    },
    "max_pool": _by_products(max_pool),
}
