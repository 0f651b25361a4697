"""Calls a Keras model with given weights, as a pure function."""

from typing import Any
from typing import NamedTuple

import keras
import tensorflow as tf

from keras_maml import keras_internals
from keras_maml.exact import lowering


class LearnerOutput(NamedTuple):
    """The result of one call of the learner.

    Attributes:
        outputs: structure of tensors that the learner returned.
        losses: list of scalars, the regularisers at the given weights and the
            losses that the layers passed to `add_loss`.
        state: dict, from the position of a variable in
            `learner.non_trainable_variables` to its new value. The dict has
            only the variables that a call has changed.
    """

    outputs: Any
    losses: list[tf.Tensor]
    state: dict[int, tf.Tensor]


def call_learner(learner, weights, state, x, *, training, fixed=None):
    """Calls `learner` with `weights` in place of its trainable variables.

    The call assigns no variable. The result holds the new values of moving
    averages, seeds and other state.

    Args:
        learner: a built Keras model.
        weights: list of tensors, one for each of
            `learner.trainable_variables`, in that order.
        state: dict of the state so far, as in `LearnerOutput.state`.
        x: structure of tensors, the input of the learner.
        training: bool, the `training` argument of the learner.
        fixed: dict such as `state`, for variables that `state` does not have.
            Only if the call changes them, they are in the new state. `None`
            means that they have their own values.

    Returns:
        A `LearnerOutput`.
    """
    non_trainable = learner.non_trainable_variables
    mapping = list(zip(learner.trainable_variables, weights, strict=True))
    fixed = {i: v for i, v in (fixed or {}).items() if i not in state}
    values = {**fixed, **state}
    mapping += [(non_trainable[i], value) for i, value in values.items()]
    with lowering.exact_ops():
        with _LearnerScope(learner, mapping) as scope:
            outputs = learner(x, training=training)
            losses = scope.learner_losses()
            keras_internals.forget_losses(learner)
    new_state = {}
    for i, variable in enumerate(non_trainable):
        value = scope.get_current_value(variable)
        if value is not None and value is not fixed.get(i):
            new_state[i] = tf.convert_to_tensor(value)
    return LearnerOutput(outputs, losses, new_state)


class _LearnerScope(keras.StatelessScope):
    """A scope that refuses to lose what a layer assigns.

    A value that is assigned within a loop of a graph cannot be read outside.

    Args:
        learner: a built Keras model.
        mapping: list of pairs of a variable and its value in the scope.
    """

    def __init__(self, learner, mapping):
        super().__init__(mapping, collect_losses=True)
        self._learner = learner
        self._graph = tf.compat.v1.get_default_graph()
        self._known = {
            id(variable)
            for variable in (*learner.variables, *learner.metrics_variables)
        }

    def add_update(self, update):
        variable = update[0]
        if id(variable) not in self._known:
            raise ValueError(
                "A layer assigns to a variable that is not the learner's, and "
                "the value would be lost. If the variable is a random seed, "
                "give the layer a `keras.random.SeedGenerator` as an attribute "
                "and pass it as `seed`. "
                f"Received: learner {self._learner.name!r} and variable "
                f"{variable.path!r}"
            )
        if tf.compat.v1.get_default_graph() is not self._graph:
            raise ValueError(
                "A layer within a loop or a branch, such as "
                "`BatchNormalization` in the cell of a `keras.layers.RNN`, "
                "changes its state, which cannot be read outside. Pass "
                "`unroll=True` to the RNN, or freeze the layer with "
                "`trainable=False`. "
                f"Received: learner {self._learner.name!r} and variable "
                f"{variable.path!r}"
            )
        super().add_update(update)

    def learner_losses(self):
        """Returns the losses of `add_loss` and the regularisers, as scalars.

        `learner.losses` would ask the layers, which other threads may call.
        """
        regularizers = [
            variable.regularizer(self.get_current_value(variable))
            for variable in self._learner.trainable_variables
            if variable.regularizer is not None
        ]
        return [
            tf.reduce_sum(tf.cast(loss, keras.backend.floatx()))
            for loss in (*self.losses, *regularizers)
        ]


def masks(outputs):
    """Returns the masks of `outputs`, by position in the flat structure."""
    flat_masks = map(keras_internals.get_mask, tf.nest.flatten(outputs))
    return {i: mask for i, mask in enumerate(flat_masks) if mask is not None}


def set_masks(outputs, masks):
    """Attaches the result of `masks` to outputs, for losses and metrics."""
    flat_outputs = tf.nest.flatten(outputs)
    for i, mask in masks.items():
        keras_internals.set_mask(flat_outputs[i], mask)
