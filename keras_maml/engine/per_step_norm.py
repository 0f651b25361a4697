"""Batch normalisation whose statistics and scales differ by inner step."""

import keras
import tensorflow as tf

from keras_maml.engine import normalization


class PerStepNorm:
    """The variables of a learner that have a value for every inner step.

    Variables of the `MetaModel` stack the values of all steps. In step i, row i
    replaces the layer's variable. Steps beyond the last row use the last row.
    The query set uses the row of the last inner step.

    Attributes:
        scales: list of ints, positions of the layers' `gamma` and `beta` in
            `learner.trainable_variables`.
        statistics: list of ints, positions of the layers' moving averages in
            `learner.non_trainable_variables`.
        scale_initializers, statistic_initializers: lists of initializers of
            the stacked variables. Each has the `shape` of one row.

    Reference:
        Antoniou et al., 2019, "How to train your MAML", section 4: per-step
        batch normalization running statistics (BNRS), weights and biases
        (BNWB).
    """

    def __init__(self, learner):
        layers = [
            layer
            for layer in normalization.batch_normalization_layers(learner)
            if layer.trainable
        ]

        def find(variables, names):
            """Returns positions in `variables`, and initializers."""
            initializers = {
                id(getattr(layer, name)): getattr(layer, f"{name}_initializer")
                for layer in layers
                for name in names
                if getattr(layer, name) is not None
            }
            positions = [
                i for i, v in enumerate(variables) if id(v) in initializers
            ]
            return positions, [
                _Repeated(variables[i], initializers[id(variables[i])])
                for i in positions
            ]

        self.scales, self.scale_initializers = find(
            learner.trainable_variables, ("gamma", "beta")
        )
        self.statistics, self.statistic_initializers = find(
            learner.non_trainable_variables, ("moving_mean", "moving_variance")
        )

    def weights_at(self, step, weights, scales):
        """Returns `weights` with the scales of a step."""
        weights = list(weights)
        for i, stacked in zip(self.scales, scales):
            weights[i] = stacked[_row(step, stacked)]
        return weights

    def state_at(self, step, state):
        """Returns the learner's state with the statistics of a step."""
        return {
            i: value[_row(step, value)] if i in self.statistics else value
            for i, value in state.items()
        }

    def put_state(self, step, step_state, state):
        """Returns the statistics of all steps after an update of one step.

        Args:
            step: int or integer tensor, the step.
            step_state: dict, the new state of this step.
            state: dict, the statistics of all steps before the update.
        """
        result = {}
        for i in self.statistics:
            stacked = state[i]
            if i in step_state:
                stacked = tf.tensor_scatter_nd_update(
                    stacked, [[_row(step, stacked)]], step_state[i][tf.newaxis]
                )
            result[i] = stacked
        return result


class _Repeated(keras.initializers.Initializer):
    """Repeats the value of a variable for every step."""

    def __init__(self, variable, initializer):
        self.shape = tuple(variable.shape)
        # A learner that `fit` builds has no values yet, only initializers.
        self.value = variable.numpy() if tf.executing_eagerly() else initializer

    def __call__(self, shape, dtype=None):
        value = self.value
        if callable(value):
            value = value(self.shape, dtype=dtype)
        return tf.broadcast_to(tf.cast(value, dtype), shape)


def _row(step, stacked):
    return tf.minimum(step, stacked.shape[0] - 1)
