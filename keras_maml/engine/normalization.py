"""Which statistics batch normalisation layers use."""

import contextlib
import inspect
import threading

import keras
import tensorflow as tf

from keras_maml import keras_internals
from keras_maml.exact import batch_norm

MODES = ("transductive", "support", "moving", "per_step")

_lock = threading.RLock()


def batch_normalization_layers(model):
    """The `keras.layers.BatchNormalization` layers of `model`, nested ones too.

    Only they choose between the batch's statistics and stored ones.
    """
    return [
        layer
        for layer in keras_internals.all_layers(model)
        if isinstance(layer, keras.layers.BatchNormalization)
    ]


@contextlib.contextmanager
def batch_statistics(layers, use=True, momentum=None):
    """Makes `layers` use the batch's statistics, or stored ones, when called.

    In Keras one flag, `training`, switches dropout and the statistics of batch
    normalisation together. Meta-learning needs them apart: at evaluation
    dropout is off while the support set's own statistics are in use. The
    `call` of each layer is replaced on the instance for the length of the
    block, which spans one call of the learner. Other threads that enter wait;
    to threads that do not enter, the layers are as they were.

    Args:
        layers: list of `BatchNormalization` layers.
        use: bool. Statistics of the batch (`True`), or stored ones; `None`
            leaves it to `training`. A layer with `trainable=False` uses stored
            ones in any case, as always in Keras.
        momentum: optional float put in the place of each layer's own. With
            `0.0` the "moving" statistics become those of the batch.

    Raises:
        ValueError: if `use` is not `None` and a subclass has a `call` without
            the argument `training`.
    """
    if use is None:
        # A subclass that nothing is asked of keeps its `call` to itself.
        layers = [
            layer
            for layer in layers
            if type(layer) is keras.layers.BatchNormalization
        ]
    with _lock:
        for layer in layers:
            layer.__dict__["call"] = _call_with(layer, use, momentum)
        try:
            yield
        finally:
            for layer in layers:
                del layer.__dict__["call"]


def _call_with(layer, use, momentum):
    call = type(layer).call
    if use is not None and "training" not in inspect.signature(call).parameters:
        raise ValueError(
            "A subclass of `BatchNormalization` needs a `call` with the "
            "argument `training`, which chooses its statistics; "
            '`normalization="moving"` does without. '
            f"Received: layer {layer.name!r} of {type(layer)}"
        )
    thread = threading.get_ident()

    def call_with_statistics(inputs, training=None, mask=None):
        # Keras passes a mask only to a `call` that has the argument.
        masked = {} if mask is None else {"mask": mask}
        if threading.get_ident() != thread:
            return call(layer, inputs, training=training, **masked)
        batch = training if use is None else use
        if batch and mask is None and _has_closed_form(layer, inputs):
            return _closed_form_call(layer, inputs, momentum)
        return call(
            _with_momentum(layer, momentum), inputs, training=batch, **masked
        )

    return call_with_statistics


def _with_momentum(layer, momentum):
    """The layer itself, or a twin that shares all with it but its momentum."""
    if momentum is None:
        return layer
    twin = object.__new__(type(layer))
    twin.__dict__.update(layer.__dict__, momentum=momentum)
    return twin


def _has_closed_form(layer, inputs):
    return (
        # A subclass may have changed anything.
        type(layer) is keras.layers.BatchNormalization
        and layer.trainable
        # Keras 3.12 and 3.13 have no such attribute.
        and not getattr(layer, "renorm", False)
        and layer.axis % len(inputs.shape) == len(inputs.shape) - 1
    )


def _closed_form_call(layer, inputs, momentum):
    """What the layer computes while training, by `batch_norm`."""
    momentum = layer.momentum if momentum is None else momentum
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
        average.assign(value(average) * momentum + new * (1.0 - momentum))
    return tf.cast(y, layer.compute_dtype)
