"""Calling a Keras model with given weights, as a pure function."""

from typing import Any
from typing import NamedTuple

import keras
import tensorflow as tf

from keras_maml import keras_internals
from keras_maml.exact import lowering


class LearnerOutput(NamedTuple):
    """What one call of the learner gives.

    Attributes:
        outputs: what the learner returned.
        losses: list of scalars: its regularisers at the weights it was called
            with, and whatever its layers passed to `add_loss`.
        state: dict, from the position of a variable in
            `learner.non_trainable_variables` to its new value; holds those
            variables only that some call has changed.
    """

    outputs: Any
    losses: list
    state: dict


def call_learner(learner, weights, state, x, *, training):
    """Calls `learner` with `weights` in place of its trainable variables.

    Nothing is assigned: the new values of moving averages, seeds and other
    state come back in the result.

    Args:
        learner: a built Keras model.
        weights: list of tensors, one for each of
            `learner.trainable_variables`, in that order.
        state: dict of the state so far, as in `LearnerOutput.state`.
        x: the input of the learner.
        training: bool, given to the learner.

    Returns:
        A `LearnerOutput`.
    """
    non_trainable = learner.non_trainable_variables
    mapping = list(zip(learner.trainable_variables, weights, strict=True))
    mapping += [(non_trainable[i], value) for i, value in state.items()]
    with lowering.exact_ops():
        with keras.StatelessScope(mapping, collect_losses=True) as scope:
            outputs = learner(x, training=training)
            losses = [
                tf.reduce_sum(tf.cast(loss, keras.backend.floatx()))
                for loss in learner.losses
            ]
            keras_internals.forget_losses(learner)
    new_state = {}
    for i, variable in enumerate(non_trainable):
        value = scope.get_current_value(variable)
        if value is not None:
            new_state[i] = tf.convert_to_tensor(value)
    return LearnerOutput(outputs, losses, new_state)


def masks(outputs):
    """The masks that Keras's layers hung on `outputs`, by flat position."""
    flat = map(keras_internals.get_mask, tf.nest.flatten(outputs))
    return {i: mask for i, mask in enumerate(flat) if mask is not None}


def set_masks(outputs, masks):
    """Hangs masks, from `masks`, on outputs, where losses and metrics look."""
    flat = tf.nest.flatten(outputs)
    for i, mask in masks.items():
        keras_internals.set_mask(flat[i], mask)
