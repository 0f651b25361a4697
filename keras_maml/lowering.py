"""What some functions of `tf.nn` become while a learner is traced.

Keras's layers, and custom ones that call `keras.ops` or `tf.nn`, look these
functions up when they are traced. So they stay as they are, and get forms that
are differentiated twice exactly, and fast.
"""

import contextlib
import threading

import tensorflow as tf

_lock = threading.RLock()
_depth = 0
_originals: dict = {}


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
    original = _originals["bias_add"]
    if data_format not in (None, "N...C", "NHWC") or value.shape.rank is None:
        return original(value, bias, data_format, name)
    axes = list(range(value.shape.rank - 1))

    @tf.custom_gradient
    def backward(d_y):
        # The sum's own gradient repeats a vector; to add it is enough.
        return (d_y, tf.reduce_sum(d_y, axes)), tf.add

    @tf.custom_gradient
    def add(value, bias):
        return original(value, bias, data_format, name), backward

    return add(value, bias)


_REPLACEMENTS = {"moments": moments, "bias_add": bias_add}


@contextlib.contextmanager
def exact_ops():
    """While entered, the functions above stand in for those of `tf.nn`.

    Entries are counted under a lock: overlapping ones, in any thread, leave
    TensorFlow's own functions in place only after the last of them has left.
    """
    global _depth
    with _lock:
        if _depth == 0:
            for name, replacement in _REPLACEMENTS.items():
                _originals[name] = getattr(tf.nn, name)
                setattr(tf.nn, name, replacement)
        _depth += 1
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0:
                for name, original in _originals.items():
                    setattr(tf.nn, name, original)
