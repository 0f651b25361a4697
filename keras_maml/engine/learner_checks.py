"""Layers that would go wrong inside of the inner loop, refused by name."""

import tensorflow as tf

from keras_maml import keras_internals


def check_layers(learner):
    """Raises `ValueError` if the learner has a layer that would go wrong."""
    on_gpu = bool(tf.config.list_physical_devices("GPU"))
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
                "`synchronized=True` is not supported: the statistics of batch "
                "normalisation are a task's, and a task is on one device. "
                f"Received: layer {layer.name!r}"
            )
        if on_gpu and getattr(layer, "use_cudnn", False):
            raise ValueError(
                "cuDNN's recurrent layers have no second derivatives. Pass "
                f"`use_cudnn=False`. Received: layer {layer.name!r} with "
                f"use_cudnn={layer.use_cudnn!r}"
            )
        functions = keras_internals.graph_functions(layer)
        if functions and layer.variables:
            raise ValueError(
                "A `tf.function` keeps the weights with which it was traced, "
                "and would not see those of an inner step. Take the "
                "decorator off: the training step is compiled as a whole. "
                f"Received: layer {layer.name!r} with a `tf.function` as "
                f"{functions}"
            )


def is_half(learner):
    """Whether some layer computes in float16, whose gradients may vanish."""
    return any(
        layer.compute_dtype == "float16"
        for layer in keras_internals.all_layers(learner)
    )
