"""Which statistics batch normalisation layers use."""

import contextlib
import threading

import keras
import tensorflow as tf

from keras_maml.exact import batch_norm

MODES = ("transductive", "support", "moving", "per_step")

_lock = threading.RLock()


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
        use: bool. Statistics of the batch (`True`), or stored ones; `None`
            leaves it to `training`. A layer with `trainable=False` uses stored
            ones in any case, as always in Keras.
        momentum: optional float put in the place of each layer's own. With
            `0.0` the "moving" statistics become those of the batch.
    """
    if use is None:
        # A subclass that nothing is asked of keeps its `call` to itself.
        layers = [
            layer
            for layer in layers
            if type(layer) is keras.layers.BatchNormalization
        ]
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
        batch = training if use is None else use
        if batch and mask is None and _has_closed_form(layer, inputs):
            return _closed_form_call(layer, inputs)
        return call(layer, inputs, training=batch, mask=mask)

    return call_with_statistics


def _has_closed_form(layer, inputs):
    return (
        # A subclass may have changed anything.
        type(layer) is keras.layers.BatchNormalization
        and layer.trainable
        and not layer.renorm
        and layer.axis % len(inputs.shape) == len(inputs.shape) - 1
    )


def _closed_form_call(layer, inputs):
    """What the layer computes while training, by `batch_norm`."""
    x = tf.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))

    def value(variable):
        return None if variable is None else tf.cast(variable, x.dtype)

    y, mean, variance = batch_norm.batch_normalization(
        x, value(layer.gamma), value(layer.beta), layer.epsilon
    )
    for average, new in (
        (layer.moving_mean, mean),
        (layer.moving_variance, variance),
    ):
        average.assign(
            value(average) * layer.momentum + new * (1.0 - layer.momentum)
        )
    return tf.cast(y, layer.compute_dtype)
