"""Chooses the statistics that batch normalisation layers use."""

import contextlib
import inspect
import threading

import keras
import tensorflow as tf

from keras_maml import keras_internals
from keras_maml.exact import batch_norm
from keras_maml.exact.constants import constant

MODES = ("transductive", "support", "moving", "per_step")

_lock = threading.RLock()


def batch_normalization_layers(model):
    """Returns the `BatchNormalization` layers of `model`, also nested ones.

    No other Keras layer chooses between batch statistics and stored statistics.
    """
    return [
        layer
        for layer in keras_internals.all_layers(model)
        if isinstance(layer, keras.layers.BatchNormalization)
    ]


@contextlib.contextmanager
def batch_statistics(layers, use=True, momentum=None):
    """Makes `layers` use batch statistics, or stored statistics.

    In Keras, the flag `training` switches both dropout and the statistics of
    batch normalisation. Meta-learning needs to switch them separately: in
    evaluation, dropout is off, but the inner loop uses the statistics of the
    support set. This context manager replaces the `call` of each layer
    instance until the block ends. Other threads that enter the block wait. For
    threads that do not enter it, the layers do not change.

    Args:
        layers: list of `BatchNormalization` layers.
        use: bool or `None`. `True` means batch statistics, `False` means
            stored statistics, and with `None` the flag `training` decides. A
            layer with `trainable=False` always uses stored statistics.
        momentum: optional float that replaces the momentum of each layer.
            With `0.0`, the "moving" averages become the batch statistics.

    Raises:
        ValueError: if `use` is `True` and a subclass has a `call` without the
            argument `training`.
    """
    if use is None:
        # A subclass may have a `call` without `training`; leave it alone.
        layers = [
            layer
            for layer in layers
            if type(layer) is keras.layers.BatchNormalization
        ]
    elif not use:
        # Without the argument, a layer has no batch statistics to choose.
        layers = [layer for layer in layers if _takes_training(layer)]
    with _lock:
        for layer in layers:
            layer.__dict__["call"] = _call_with(layer, use, momentum)
        try:
            yield
        finally:
            for layer in layers:
                del layer.__dict__["call"]


def _takes_training(layer):
    return "training" in inspect.signature(type(layer).call).parameters


def _call_with(layer, use, momentum):
    call = type(layer).call
    signature = inspect.signature(call)
    if use and not _takes_training(layer):
        raise ValueError(
            "A subclass of `BatchNormalization` needs a `call` with the "
            "argument `training`, which chooses its statistics. Add the "
            'argument, or use `normalization="moving"`. '
            f"Received: layer {layer.name!r} of {type(layer)}"
        )
    thread = threading.get_ident()

    def call_with_statistics(*args, **kwargs):
        if threading.get_ident() != thread:
            return call(layer, *args, **kwargs)
        bound = signature.bind(_with_momentum(layer, momentum), *args, **kwargs)
        arguments = bound.arguments
        inputs = args[0] if args else kwargs["inputs"]
        use_batch = arguments.get("training") if use is None else use
        if (
            use_batch
            and arguments.get("mask") is None
            and _has_closed_form(layer, inputs)
        ):
            return _closed_form_call(layer, inputs, momentum)
        arguments["training"] = use_batch
        return call(*bound.args, **bound.kwargs)

    return call_with_statistics


def _with_momentum(layer, momentum):
    """Returns the layer, or a shallow copy of it with another momentum."""
    if momentum is None:
        return layer
    copy = object.__new__(type(layer))
    copy.__dict__.update(layer.__dict__, momentum=momentum)
    return copy


def _has_closed_form(layer, inputs):
    return (
        # A subclass may compute something else.
        type(layer) is keras.layers.BatchNormalization
        and layer.trainable
        # Keras 3.12 and 3.13 do not have the attribute.
        and not getattr(layer, "renorm", False)
        and layer.axis % len(inputs.shape) == len(inputs.shape) - 1
    )


def _closed_form_call(layer, inputs, momentum):
    """Computes what the layer computes in training, with fast derivatives."""
    momentum = layer.momentum if momentum is None else momentum
    x = tf.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))

    def value(variable):
        return None if variable is None else tf.cast(variable, x.dtype)

    y, mean, variance = batch_norm.batch_normalization(
        x, value(layer.gamma), value(layer.beta), layer.epsilon
    )
    kept, new = constant(momentum, x.dtype), constant(1.0 - momentum, x.dtype)
    for average, statistic in (
        (layer.moving_mean, mean),
        (layer.moving_variance, variance),
    ):
        average.assign(value(average) * kept + statistic * new)
    return tf.cast(y, layer.compute_dtype)
