"""What is the same for all candidates of a verdict."""

from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import keras

from keras_maml import keras_internals


class Plan(NamedTuple):
    """The arguments of `should_i_adapt`, by the same names.

    Attributes:
        loss: string or `keras.Loss`.
        metrics: list, as for `compile`.
        candidates: list of names.
        budget: int, gradient evaluations of a training.
        trials: int.
        rounds: int, the number of times that a training looks at validation
            tasks.
        meta_batch_size: int.
        inner_steps: int.
        most_steps: int.
        outer_rates, inner_rates: pairs of floats.
        episodes: int, test episodes in all.
        validation_episodes: int, validation episodes of each look.
        normalization: string.
    """

    loss: Any
    metrics: Sequence
    candidates: Sequence[str]
    budget: int
    trials: int
    rounds: int
    meta_batch_size: int
    inner_steps: int
    most_steps: int
    outer_rates: tuple[float, float]
    inner_rates: tuple[float, float]
    episodes: int
    validation_episodes: int
    normalization: str

    def main_metric(self) -> tuple[str, str]:
        """Returns the name of the metric that decides, and its direction.

        Raises:
            ValueError: if it is unknown whether high values are good.
        """
        if not self.metrics:
            return "loss", "down"
        entry = self.metrics[0]
        metric = keras.metrics.get(entry)
        direction = keras_internals.direction(metric)
        if direction is None:
            raise ValueError(
                "`metrics` must begin with a metric of Keras of which it is "
                "known whether high values are good. Received: "
                f"metrics={self.metrics!r}"
            )
        return entry if isinstance(entry, str) else metric.name, direction

    def new_metrics(self) -> list:
        """Returns the metrics, new ones for each model."""
        return [
            entry.from_config(entry.get_config())
            if isinstance(entry, keras.Metric)
            else entry
            for entry in self.metrics
        ]

    def facts(self) -> dict:
        """Returns the plan in the form of JSON."""
        plain = keras.saving.serialize_keras_object
        return {
            **self._asdict(),
            "loss": plain(self.loss),
            "metrics": [plain(metric) for metric in self.metrics],
            "outer_rates": list(self.outer_rates),
            "inner_rates": list(self.inner_rates),
        }

    def rates(self, trial: int) -> tuple[float, float]:
        """Returns the outer and the inner rate of a trial.

        The rates are points of a Halton sequence on logarithmic scales: the
        first few points spread well, and more trials go on from them.
        """
        low, high = self.outer_rates
        outer = low * (high / low) ** _radical_inverse(trial + 1, 2)
        low, high = self.inner_rates
        inner = low * (high / low) ** _radical_inverse(trial + 1, 3)
        return outer, inner

    def steps_of_a_round(self, gradients: int) -> int:
        """Returns the training steps of a round.

        Args:
            gradients: int, the gradient evaluations of a step.
        """
        return max(1, round(self.budget / gradients / self.rounds))


def _radical_inverse(number, base):
    value, digit = 0.0, 1 / base
    while number:
        value += digit * (number % base)
        number //= base
        digit /= base
    return value
