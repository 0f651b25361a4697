"""Which statistics normalisation layers use, and their exact derivatives."""

import contextlib
import threading

import keras
import tensorflow as tf

MODES = ("transductive", "support", "moving")

_lock = threading.RLock()
_depth = 0
_tf_moments = None


def _exact_moments(x, axes, shift=None, keepdims=False, name=None):
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


@contextlib.contextmanager
def exact_moments():
    """While entered, `tf.nn.moments` has exact derivatives of every order.

    Every Keras normalisation layer, and every custom layer that calls
    `keras.ops.moments` or `tf.nn.moments`, looks this function up when it is
    traced, so the layers themselves stay as they are. Entries are counted
    under a lock: overlapping ones, in any thread, leave TensorFlow's own
    function in place only after the last of them has left.
    """
    global _depth, _tf_moments
    with _lock:
        if _depth == 0:
            _tf_moments = tf.nn.moments
            tf.nn.moments = _exact_moments
        _depth += 1
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0:
                tf.nn.moments = _tf_moments


def batch_normalization_layers(model):
    """The `keras.layers.BatchNormalization` layers of `model`, nested ones too.

    Only they choose between the batch's statistics and stored ones.
    """
    return [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
    ]


@contextlib.contextmanager
def batch_statistics(layers, use=True, momentum=None):
    """Makes `layers` use the batch's statistics, or stored ones, when called.

    In Keras one flag, `training`, switches dropout and the statistics of batch
    normalisation together. Meta-learning needs them apart: at evaluation
    dropout is off while the support set's own statistics are in use. The
    `call` of each layer is replaced on the instance for the length of the
    block, which spans one call of the learner; other threads wait.

    Args:
        layers: list of `BatchNormalization` layers.
        use: bool. Statistics of the batch (`True`), or stored ones. A layer
            with `trainable=False` uses stored ones in any case, as always in
            Keras.
        momentum: optional float put in the place of each layer's own. With
            `0.0` the "moving" statistics become those of the batch.
    """
    with _lock:
        originals = [layer.momentum for layer in layers]
        for layer in layers:
            layer.__dict__["call"] = _call_with(layer, use)
            if momentum is not None:
                layer.momentum = momentum
        try:
            yield
        finally:
            for layer, original in zip(layers, originals):
                layer.momentum = original
                del layer.__dict__["call"]


def _call_with(layer, use):
    call = type(layer).call

    def call_with_statistics(inputs, training=None, mask=None):
        return call(layer, inputs, training=use, mask=mask)

    return call_with_statistics
