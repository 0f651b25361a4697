"""Batch normalisation with statistics and scales of each inner step's own."""

import keras
import tensorflow as tf

from keras_maml.engine import normalization


class PerStepNorm:
    """Which of a learner's variables have a value for every inner step.

    The values of all steps are stacked in variables of the `MetaModel`. At
    step i row i stands in for the layer's own variable; steps beyond the last
    row use that. The query set is normalised by the row of the step before.

    Attributes:
        scales: list of ints, positions of the layers' `gamma` and `beta` in
            `learner.trainable_variables`.
        statistics: list of ints, positions of their moving averages in
            `learner.non_trainable_variables`.
        first_scales, first_statistics: lists of initializers for their rows,
            with the `shape` of one.

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
            """Positions in `variables`, and what a row of each starts from."""
            wanted = {
                id(getattr(layer, name)): getattr(layer, f"{name}_initializer")
                for layer in layers
                for name in names
                if getattr(layer, name) is not None
            }
            found = [i for i, v in enumerate(variables) if id(v) in wanted]
            return found, [
                _Repeated(variables[i], wanted[id(variables[i])]) for i in found
            ]

        self.scales, self.first_scales = find(
            learner.trainable_variables, ("gamma", "beta")
        )
        self.statistics, self.first_statistics = find(
            learner.non_trainable_variables, ("moving_mean", "moving_variance")
        )

    def weights_at(self, step, weights, scales):
        """`weights` with the scales of a step in their places."""
        weights = list(weights)
        for i, stacked in zip(self.scales, scales):
            weights[i] = stacked[_row(step, stacked)]
        return weights

    def state_at(self, step, state):
        """The learner's state with the statistics of a step."""
        return {
            i: value[_row(step, value)] if i in self.statistics else value
            for i, value in state.items()
        }

    def put_state(self, step, new, state):
        """The statistics of all steps after one whose own are in `new`."""
        result = {}
        for i in self.statistics:
            stacked = state[i]
            if i in new:
                stacked = tf.tensor_scatter_nd_update(
                    stacked, [[_row(step, stacked)]], new[i][tf.newaxis]
                )
            result[i] = stacked
        return result


class _Repeated(keras.initializers.Initializer):
    """A variable's value, repeated for every step."""

    def __init__(self, variable, initializer):
        self.shape = tuple(variable.shape)
        # A learner that `fit` builds has no value yet, only a way to one.
        self.value = variable.numpy() if tf.executing_eagerly() else initializer

    def __call__(self, shape, dtype=None):
        value = self.value
        if callable(value):
            value = value(self.shape, dtype=dtype)
        return tf.broadcast_to(tf.cast(value, dtype), shape)


def _row(step, stacked):
    return tf.minimum(step, stacked.shape[0] - 1)
