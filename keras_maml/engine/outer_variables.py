"""What a `MetaModel` has of its own besides the learner's variables."""

import keras
import tensorflow as tf

from keras_maml import adaptation
from keras_maml.engine import combinations
from keras_maml.engine.per_step_norm import PerStepNorm


class OuterVariables:
    """The `MetaModel`'s own variables, by what they are for.

    Attributes:
        built: bool.
        parameters: list of variables, what the inner optimizer learns.
        per_step_norm: a `PerStepNorm`, or `None`.
        scales: list of variables, the per-step scales and shifts.
        statistics: dict of variables, the per-step statistics, by position in
            the learner's state.
    """

    def __init__(self):
        self.built = False
        self.parameters = []
        self.per_step_norm = None
        self.scales = []
        self.statistics = {}
        self._learner_variables = []

    def build(self, meta_model):
        """Makes them for a `MetaModel` whose learner is built."""
        learner = meta_model.learner

        def add(name, shape, initializer, trainable=True):
            return meta_model.add_weight(
                shape=shape,
                initializer=initializer,
                trainable=trainable,
                name=name,
            )

        if meta_model.normalization == "per_step":
            self.per_step_norm = per_step = PerStepNorm(learner)
            rows = max(meta_model.inner_steps, 1)
            self.scales = [
                add(f"per_step_scale_{i}", (rows, *start.shape), start)
                for i, start in enumerate(per_step.first_scales)
            ]
            self.statistics = {
                position: add(
                    f"per_step_statistic_{i}",
                    (rows, *start.shape),
                    start,
                    trainable=False,
                )
                for i, (position, start) in enumerate(
                    zip(per_step.statistics, per_step.first_statistics)
                )
            }
        self.parameters = [
            add(f"inner_optimizer_{i}", value.shape, _Value(value))
            for i, value in enumerate(self._values(meta_model))
        ]
        self._learner_variables = _variables(learner)
        self.built = True

    def check(self, meta_model):
        """Raises `ValueError` if they no longer fit the model's settings.

        They were made when it was built, in the number and order of the
        learner's variables of that time.
        """
        combinations.check(meta_model)
        per_step = meta_model.normalization == "per_step"
        changed = per_step != (self.per_step_norm is not None) or [
            tuple(value.shape) for value in self._values(meta_model)
        ] != [tuple(variable.shape) for variable in self.parameters]
        if self.parameters or per_step:
            now = _variables(meta_model.learner)
            changed = changed or now != self._learner_variables
        if changed:
            raise ValueError(
                "Learned rates and per-step normalisation belong to the "
                "learner's variables as they were when the `MetaModel` was "
                "built. Freeze layers and choose `inner_optimizer`, "
                "`inner_steps` and `normalization` before. Received: other "
                "variables or settings"
            )

    def positions(self, meta_model):
        """Which of the learner's trainable variables adapt."""
        learner = meta_model.learner
        adapted_weights = meta_model._untracked.adapted_weights
        positions = adaptation.adapted_positions(learner, adapted_weights)
        if self.per_step_norm is None:
            return positions
        # The rows of all steps move in the outer loop alone.
        rest = [i for i in positions if i not in self.per_step_norm.scales]
        if not rest:
            raise ValueError(
                '`normalization="per_step"` leaves the scales of batch '
                "normalisation to the outer loop, and `adapted_weights` "
                "selects nothing else. "
                f"Received: adapted_weights={adapted_weights!r}"
            )
        return rest

    def _values(self, meta_model):
        variables = meta_model.learner.trainable_variables
        return meta_model.inner_optimizer.parameters(
            [variables[i] for i in self.positions(meta_model)],
            max(meta_model.inner_steps, 1),
        )


def _variables(learner):
    return [
        [id(v) for v in variables]
        for variables in (
            learner.trainable_variables,
            learner.non_trainable_variables,
        )
    ]


class _Value(keras.initializers.Initializer):
    """An array as it is."""

    def __init__(self, value):
        self.value = value

    def __call__(self, shape, dtype=None):
        return tf.constant(self.value, dtype)
