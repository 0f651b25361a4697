"""Refuses learners that would compute wrong results in the inner loop."""

import keras

from keras_maml import devices
from keras_maml import keras_internals


def check_model(learner):
    """Raises `ValueError` unless `learner` is the Keras model of one task."""
    # A `MetaModel` or a `MetaPolicySearch` learns many.
    if not isinstance(learner, keras.Model) or hasattr(learner, "meta_state"):
        raise ValueError(
            "`learner` must be the Keras model of one task. "
            f"Received: learner={learner!r} (of type {type(learner)})"
        )


def check_layers(learner):
    """Raises `ValueError` if a layer does not work in the inner loop."""
    on_gpu = any(d.device_type == "GPU" for d in devices.accelerators())
    for layer in keras_internals.all_layers(learner):
        if layer.variable_dtype == "float16":
            raise ValueError(
                "Weights in float16 are not supported: the small steps of the "
                "inner loop would become 0. Use `mixed_float16` or "
                "`mixed_bfloat16`. "
                f"Received: layer {layer.name!r} with weights in float16"
            )
        if getattr(layer, "synchronized", False):
            raise ValueError(
                "`synchronized=True` is not supported: batch normalisation "
                "uses the statistics of one task, and a task runs on one "
                f"device. Received: layer {layer.name!r} with synchronized=True"
            )
        if on_gpu and getattr(layer, "use_cudnn", False):
            raise ValueError(
                "cuDNN's recurrent layers have no second derivatives. Pass "
                f"`use_cudnn=False`. Received: layer {layer.name!r} with "
                f"use_cudnn={layer.use_cudnn!r}"
            )


def is_half(learner):
    """Returns whether a layer computes in float16, so gradients may vanish."""
    return any(
        layer.compute_dtype == "float16"
        for layer in keras_internals.all_layers(learner)
    )
