"""What some functions of TensorFlow become while a learner is traced.

Keras's layers, and custom ones that call `keras.ops` or `tf.nn`, look these
functions up when they are traced. So the layers stay as they are, and get forms
of the functions that are differentiated twice exactly, and fast.
"""

import contextlib
import numbers
import threading

import tensorflow as tf

from keras_maml.exact import convolution as convolution_lib
from keras_maml.exact.batch_norm import channel_sum
from keras_maml.keras_internals import REPLACED_FUNCTIONS

_ORIGINALS = {
    name: getattr(module, name) for name, module in REPLACED_FUNCTIONS.items()
}
_lock = threading.RLock()
# How many threads and blocks have entered, and how many in this thread.
_entered = 0
_thread = threading.local()


def moments(x, axes, shift=None, keepdims=False, name=None):
    """`tf.nn.moments` whose second derivatives are right too.

    TensorFlow stops the gradient of the mean inside the variance. The first
    derivative survives, because the variance is stationary in the mean, but
    the second one loses a term. Here nothing is stopped.
    """
    del shift  # Unused by TensorFlow as well.
    with tf.name_scope(name or "moments"):
        x = tf.convert_to_tensor(x)
        # Half precision cannot hold the sums; TensorFlow computes in float32.
        half = x.dtype in (tf.float16, tf.bfloat16)
        y = tf.cast(x, tf.float32) if half else x
        mean = tf.reduce_mean(y, axes, keepdims=True)
        variance = tf.reduce_mean(
            tf.math.squared_difference(y, mean), axes, keepdims=keepdims
        )
        mean = mean if keepdims else tf.squeeze(mean, axes)
        return tf.cast(mean, x.dtype), tf.cast(variance, x.dtype)


def bias_add(value, bias, data_format=None, name=None):
    """`tf.nn.bias_add` whose gradient is a plain sum.

    TensorFlow's graph optimiser merges a `BiasAddGrad` with a filter gradient
    of the same tensor. In a second derivative there are two such gradients,
    and to take the wrong one closes a cycle ("nodes in a cycle").
    """
    original = _ORIGINALS["bias_add"]
    value = tf.convert_to_tensor(value)
    # A frozen layer's is a variable, which a custom gradient would refuse.
    bias = tf.convert_to_tensor(bias)
    last = data_format in (None, "N...C", "NHWC")
    if not last or value.shape.rank is None or value.shape[-1] is None:
        return original(value, bias, data_format, name)

    @tf.custom_gradient
    def backward(d_y):
        # The sum's own gradient repeats a vector; to add it is enough.
        return (d_y, channel_sum(d_y)), tf.add

    @tf.custom_gradient
    def add(value, bias):
        return original(value, bias, data_format, name), backward

    return add(value, bias)


def convolution(
    input,
    filters,
    strides=None,
    padding="VALID",
    data_format=None,
    dilations=None,
    name=None,
):
    """`tf.nn.convolution` with faster derivatives where patches are few."""
    x = tf.convert_to_tensor(input)
    kernel = tf.convert_to_tensor(filters)
    step = _pair(1 if strides is None else strides)
    if (
        data_format not in (None, "NHWC")
        or _pair(1 if dilations is None else dilations) != [1, 1]
        or not convolution_lib.supports(x, kernel, step, padding)
    ):
        return _ORIGINALS["convolution"](
            x, kernel, strides, padding, data_format, dilations, name
        )
    with tf.name_scope(name or "convolution"):
        return convolution_lib.convolution(x, kernel, step, padding)


def relu(features, name=None):
    """`tf.nn.relu` whose second derivative adds no zeros.

    TensorFlow's own gives the features a gradient as well, a tensor of zeros
    that is then written, read and added.
    """

    @tf.custom_gradient
    def masked(gradient, y):
        value = tf.raw_ops.ReluGrad(gradients=gradient, features=y)
        return value, lambda u: (masked(u, y), None)

    @tf.custom_gradient
    def rectify(features):
        y = _ORIGINALS["relu"](features, name)
        return y, lambda d_y: masked(d_y, y)

    return rectify(tf.convert_to_tensor(features))


def max_pool(input, ksize, strides, padding, data_format=None, name=None):
    """`tf.nn.max_pool` whose second derivative is fast, and adds no zeros.

    Where windows do not overlap, a pixel is the maximum of one window at most,
    and the gradient of the gradient is the sum over each window of what is
    where the maximum was: a mean pooling.
    """
    x = tf.convert_to_tensor(input)
    window, step = _sides(ksize), _sides(strides)
    # Padded windows are short of a pixel, which a mean would count.
    whole = (
        padding == "VALID"
        or window == step
        and not any(n is None or n % s for n, s in zip(x.shape[1:3], step))
    )
    if (
        x.shape.rank != 4
        or data_format not in (None, "NHWC")
        or padding not in ("VALID", "SAME")
        or x.dtype not in (tf.float32, tf.float64)
        or any(w > s for w, s in zip(window, step))
        or not whole
    ):
        return _ORIGINALS["max_pool"](
            input, ksize, strides, padding, data_format, name
        )
    settings = {
        "ksize": [1, *window, 1],
        "strides": [1, *step, 1],
        "padding": padding,
    }

    def place(gradient, x, y):
        return tf.raw_ops.MaxPoolGrad(
            orig_input=x, orig_output=y, grad=gradient, **settings
        )

    @tf.custom_gradient
    def placed(gradient, x, y):
        def picked(u):
            return picked_from(u, x, y), None, None

        return place(gradient, x, y), picked

    @tf.custom_gradient
    def picked_from(u, x, y):
        means = tf.raw_ops.AvgPool(
            value=u * place(tf.ones_like(y), x, y), **settings
        )
        value = means * float(window[0] * window[1])
        return value, lambda gradient: (placed(gradient, x, y), None, None)

    @tf.custom_gradient
    def pool(x):
        y = _ORIGINALS["max_pool"](x, window, step, padding, "NHWC", name)
        return y, lambda d_y: placed(d_y, x, y)

    return pool(x)


def _sides(sizes):
    """`[height, width]` of one of the forms that `tf.nn.max_pool` takes."""
    sizes = _pair(sizes)
    return sizes[1:3] if len(sizes) == 4 else sizes


def _pair(sizes):
    """One number twice; other lists as they are."""
    sizes = [sizes] if isinstance(sizes, numbers.Integral) else list(sizes)
    return sizes * 2 if len(sizes) == 1 else sizes


def resize(images, *args, **kwargs):
    """`tf.image.resize` that has second derivatives.

    TensorFlow counts the gradient's own gradient as 0. Resizing is linear, so
    its gradient is its transpose, and that of the transpose itself.
    """
    images = tf.convert_to_tensor(images)
    if not images.dtype.is_floating:
        return _ORIGINALS["resize"](images, *args, **kwargs)
    shape = tf.shape(images)

    @tf.custom_gradient
    def forward(x):
        return _ORIGINALS["resize"](x, *args, **kwargs), transposed

    @tf.custom_gradient
    def transposed(d_y):
        zeros = tf.ensure_shape(tf.zeros(shape, images.dtype), images.shape)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(zeros)
            y = _ORIGINALS["resize"](zeros, *args, **kwargs)
        return tape.gradient(y, zeros, d_y), forward

    return forward(images)


_REPLACEMENTS = {
    "moments": moments,
    "bias_add": bias_add,
    "convolution": convolution,
    "relu": relu,
    "max_pool": max_pool,
    "resize": resize,
}


@contextlib.contextmanager
def exact_ops():
    """While entered, this thread gets the functions above in `tf.nn`.

    A thread that did not enter, and what is no dense tensor, get TensorFlow's
    own. Overlapping entries are counted: after the last one has left,
    TensorFlow's modules are as they were.
    """
    global _entered
    with _lock:
        if not _entered:
            for name, module in REPLACED_FUNCTIONS.items():
                setattr(module, name, _DISPATCHERS[name])
        _entered += 1
    _thread.depth = getattr(_thread, "depth", 0) + 1
    try:
        yield
    finally:
        _thread.depth -= 1
        with _lock:
            _entered -= 1
            if not _entered:
                for name, module in REPLACED_FUNCTIONS.items():
                    setattr(module, name, _ORIGINALS[name])


def _dispatcher(name):
    """The function that stands in TensorFlow's module while one has entered."""
    original, replacement = _ORIGINALS[name], _REPLACEMENTS[name]

    def dispatch(*args, **kwargs):
        first = args[0] if args else next(iter(kwargs.values()), None)
        exact = getattr(_thread, "depth", 0) and not isinstance(
            first, (tf.RaggedTensor, tf.SparseTensor)
        )
        return (replacement if exact else original)(*args, **kwargs)

    return dispatch


_DISPATCHERS = {name: _dispatcher(name) for name in _REPLACEMENTS}
