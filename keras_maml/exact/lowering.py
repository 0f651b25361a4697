"""Replaces functions of TensorFlow while a learner is traced.

Keras's layers, and custom layers that call `keras.ops` or `tf.nn`, look up
these functions when they are traced. The replacements have exact and fast
second derivatives. The layers themselves do not change.
"""

import contextlib
import numbers
import threading

import tensorflow as tf

from keras_maml.exact import built_in
from keras_maml.exact import built_in_ops
from keras_maml.exact import convolution as convolution_lib
from keras_maml.exact import narrow_images
from keras_maml.exact import task_axis
from keras_maml.exact import vectorized_ops
from keras_maml.exact.batch_norm import channel_sum
from keras_maml.exact.gradients import custom_gradient
from keras_maml.keras_internals import REPLACED_FUNCTIONS
from keras_maml.keras_internals import is_library_function

_ORIGINALS = {
    name: getattr(module, name) for name, module in REPLACED_FUNCTIONS.items()
}
_convolution = narrow_images.in_float32(_ORIGINALS["convolution"])
_lock = threading.RLock()
# The number of open `exact_ops` blocks in all threads, and by thread.
_entered = 0
_thread = threading.local()


def moments(x, axes, shift=None, keepdims=False, name=None):
    """`tf.nn.moments` with exact second derivatives.

    TensorFlow stops the gradient of the mean inside the variance. The first
    derivative is still right, because the variance is stationary in the mean,
    but the second derivative loses a term. This function stops no gradient.
    """
    del shift  # Unused by TensorFlow as well.
    with tf.name_scope(name or "moments"):
        x = tf.convert_to_tensor(x)
        # Half precision cannot hold the sums. TensorFlow also uses float32.
        is_half = x.dtype in (tf.float16, tf.bfloat16)
        y = tf.cast(x, tf.float32) if is_half else x
        mean = tf.reduce_mean(y, axes, keepdims=True)
        variance = tf.reduce_mean(
            tf.math.squared_difference(y, mean), axes, keepdims=keepdims
        )
        mean = mean if keepdims else tf.squeeze(mean, axes)
        return tf.cast(mean, x.dtype), tf.cast(variance, x.dtype)


def bias_add(value, bias, data_format=None, name=None):
    """`tf.nn.bias_add` whose gradient is a plain sum.

    TensorFlow's graph optimiser merges a `BiasAddGrad` with a filter gradient
    of the same tensor. A second derivative has two such filter gradients, and
    merging the wrong one closes a cycle ("nodes in a cycle").
    """
    original = _ORIGINALS["bias_add"]
    value = tf.convert_to_tensor(value)
    # A frozen layer passes a variable, which a custom gradient would refuse.
    bias = tf.convert_to_tensor(bias)
    channels_last = data_format in (None, "N...C", "NHWC")
    if not channels_last or value.shape.rank is None or value.shape[-1] is None:
        return original(value, bias, data_format, name)

    @custom_gradient
    def backward(d_y):
        if d_y.shape.rank is None or d_y.shape[-1] is None:
            # A function of the user's own may give a gradient without a shape.
            d_y = tf.ensure_shape(d_y, value.shape)
        # The gradient of the sum repeats a vector, which `tf.add` broadcasts.
        return (d_y, channel_sum(d_y)), tf.add

    @custom_gradient
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
    """`tf.nn.convolution` with faster derivatives for few patches."""
    x = tf.convert_to_tensor(input)
    kernel = tf.convert_to_tensor(filters)
    step = _pair(1 if strides is None else strides)
    if (
        data_format not in (None, "NHWC")
        or _pair(1 if dilations is None else dilations) != [1, 1]
        or not convolution_lib.supports(x, kernel, step, padding)
    ):
        return _convolution(
            x, kernel, strides, padding, data_format, dilations, name
        )
    with tf.name_scope(name or "convolution"):
        return convolution_lib.convolution(x, kernel, step, padding)


def relu(features, name=None):
    """`tf.nn.relu` whose second derivative adds no zeros.

    TensorFlow's second derivative also has a gradient for the features, a
    tensor of zeros that costs time to write, read and add.
    """

    @custom_gradient
    def masked(gradient, y):
        value = tf.raw_ops.ReluGrad(gradients=gradient, features=y)
        return value, lambda u: (masked(u, y), None)

    @custom_gradient
    def rectify(features):
        y = _ORIGINALS["relu"](features, name)
        return y, lambda d_y: masked(d_y, y)

    return rectify(tf.convert_to_tensor(features))


def max_pool(input, ksize, strides, padding, data_format=None, name=None):
    """`tf.nn.max_pool` with a fast second derivative that adds no zeros.

    If windows do not overlap, a pixel is the maximum of at most one window. The
    gradient of the gradient then picks, in each window, the value at the
    place of the maximum. A masked mean pooling computes it.
    """
    x = tf.convert_to_tensor(input)
    window, step = _sides(ksize), _sides(strides)
    # Mean pooling divides a padded window by a smaller number of pixels.
    no_padding = (
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
        or not no_padding
    ):
        arguments = input, ksize, strides, padding, data_format, name
        # Of pooling that keeps the size, TensorFlow's second derivative is
        # wrong (2.20 and 2.21, in graphs on CPUs).
        keeps_size = padding == "SAME" and set(_pair(strides)) == {1}
        if keeps_size or task_axis.is_vectorized():
            return vectorized_ops.max_pool(_ORIGINALS["max_pool"], *arguments)
        return _ORIGINALS["max_pool"](*arguments)
    settings = {
        "ksize": [1, *window, 1],
        "strides": [1, *step, 1],
        "padding": padding,
    }

    def max_pool_grad(gradient, x, y):
        return tf.raw_ops.MaxPoolGrad(
            orig_input=x, orig_output=y, grad=gradient, **settings
        )

    @custom_gradient
    def placed(gradient, x, y):
        def picked(u):
            return picked_from(u, x, y), None, None

        return max_pool_grad(gradient, x, y), picked

    @custom_gradient
    def picked_from(u, x, y):
        means = tf.raw_ops.AvgPool(
            value=u * max_pool_grad(tf.ones_like(y), x, y), **settings
        )
        value = means * float(window[0] * window[1])
        return value, lambda gradient: (placed(gradient, x, y), None, None)

    @custom_gradient
    def pool(x):
        y = _ORIGINALS["max_pool"](x, window, step, padding, "NHWC", name)
        return y, lambda d_y: placed(d_y, x, y)

    return pool(x)


def _sides(sizes):
    """Returns `[height, width]` for any argument of `tf.nn.max_pool`."""
    sizes = _pair(sizes)
    return sizes[1:3] if len(sizes) == 4 else sizes


def _pair(sizes):
    """Returns a list that repeats a single number."""
    sizes = [sizes] if isinstance(sizes, numbers.Integral) else list(sizes)
    return sizes * 2 if len(sizes) == 1 else sizes


def resize(images, *args, **kwargs):
    """`tf.image.resize` with second derivatives.

    In TensorFlow, the gradient of the gradient is 0. Resizing is linear: its
    gradient is the transpose, and the gradient of the transpose is resizing.
    """
    images = tf.convert_to_tensor(images)
    if not images.dtype.is_floating:
        return _ORIGINALS["resize"](images, *args, **kwargs)
    shape = tf.shape(images)

    @custom_gradient
    def forward(x):
        return _ORIGINALS["resize"](x, *args, **kwargs), transposed

    @custom_gradient
    def transposed(d_y):
        zeros = tf.ensure_shape(tf.zeros(shape, images.dtype), images.shape)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(zeros)
            y = _ORIGINALS["resize"](zeros, *args, **kwargs)
        return tape.gradient(y, zeros, d_y), forward

    return forward(images)


def call_inline(function, *args, **kwargs):
    """Runs the Python function behind a `tf.function`.

    A `tf.function` keeps the weights of its first trace. Inside of a learner,
    whose weights change from one inner step to the next, it would compute with
    old ones.
    """
    if is_library_function(function):
        return _ORIGINALS["__call__"](function, *args, **kwargs)
    return function.python_function(*args, **kwargs)


_REPLACEMENTS = {
    "__call__": call_inline,
    "moments": moments,
    "bias_add": bias_add,
    "convolution": convolution,
    "relu": relu,
    "max_pool": max_pool,
    "resize": resize,
}


@contextlib.contextmanager
def exact_ops():
    """Replaces the functions in TensorFlow's modules for this thread.

    Other threads still get TensorFlow's functions, and so do ragged and sparse
    tensors. When the last open block ends, the modules get their functions
    back.
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
    """Returns a function that chooses the original or a replacement."""
    original = _ORIGINALS[name]
    replacement = _REPLACEMENTS.get(name, original)
    if name in ("depthwise_conv2d", "separable_conv2d"):
        replacement = narrow_images.in_float32(original)
    vectorized = vectorized_ops.FUNCTIONS.get(name)
    for_litert = built_in_ops.FUNCTIONS.get(name)

    def dispatch(*args, **kwargs):
        if not getattr(_thread, "depth", 0):
            return original(*args, **kwargs)
        if name != "__call__" and any(
            isinstance(value, (tf.RaggedTensor, tf.SparseTensor))
            for value in (*args, *kwargs.values())
        ):
            return original(*args, **kwargs)
        if for_litert is not None and built_in.is_required():
            return for_litert(original, *args, **kwargs)
        if vectorized is not None and task_axis.is_vectorized():
            return vectorized(original, *args, **kwargs)
        return replacement(*args, **kwargs)

    return dispatch


_DISPATCHERS = {name: _dispatcher(name) for name in REPLACED_FUNCTIONS}
