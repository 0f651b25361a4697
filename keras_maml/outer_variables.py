"""What a `MetaModel` has of its own besides the learner's variables."""

import keras

from keras_maml.per_step_norm import PerStepNorm


class OuterVariables:
    """The `MetaModel`'s own variables, by what they are for.

    Attributes:
        parameters: list of variables, what the inner optimizer learns.
        per_step_norm: a `PerStepNorm`, or `None`.
        scales: list of variables, the per-step scales and shifts.
        statistics: dict of variables, the per-step statistics, by position in
            the learner's state.
    """

    def __init__(self):
        self.parameters = []
        self.per_step_norm = None
        self.scales = []
        self.statistics = {}

    def build(self, meta_model, positions):
        """Makes them.

        Args:
            meta_model: a `MetaModel` with a built learner.
            positions: list of ints, which of its trainable variables adapt.

        Returns:
            The positions, less those that the scales stand in for.
        """
        learner = meta_model.learner
        steps = max(meta_model.inner_steps, 1)

        def add(name, value, trainable=True):
            return meta_model.add_weight(
                shape=value.shape,
                initializer=_Value(value),
                trainable=trainable,
                name=name,
            )

        if meta_model.normalization == "per_step":
            self.per_step_norm = per_step = PerStepNorm(learner)
            rows = per_step.rows(
                learner.trainable_variables, per_step.scales, steps
            )
            self.scales = [
                add(f"per_step_scale_{i}", value)
                for i, value in enumerate(rows)
            ]
            rows = per_step.rows(
                learner.non_trainable_variables, per_step.statistics, steps
            )
            self.statistics = {
                i: add(f"per_step_statistic_{i}", value, trainable=False)
                for i, value in zip(per_step.statistics, rows)
            }
            positions = [i for i in positions if i not in per_step.scales]
        values = meta_model.inner_optimizer.parameters(
            [learner.trainable_variables[i] for i in positions], steps
        )
        self.parameters = [
            add(f"inner_optimizer_{i}", value) for i, value in enumerate(values)
        ]
        return positions


class _Value(keras.initializers.Initializer):
    """An array as it is."""

    def __init__(self, value):
        self.value = value

    def __call__(self, shape, dtype=None):
        return keras.ops.cast(self.value, dtype)
