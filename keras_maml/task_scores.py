"""Scores of many tasks, their mean and its confidence interval."""

from typing import NamedTuple

import numpy as np


class TaskScores(NamedTuple):
    """Scores of many tasks after a number of inner steps.

    Attributes:
        values: array `(tasks,)`, for each task the mean of the metric over
            its queries.
        skipped: int, the number of tasks that were left out, because what
            they depend on, their predictions or their scores are not finite.

    Example:

    ```python
    scores = keras_maml.TaskScores(np.array([0.5, 0.75, 1.0]))
    print(f"{scores.mean:.2f} ± {scores.ci95:.2f}")  # 0.75 ± 0.28
    ```
    """

    values: np.ndarray
    skipped: int = 0

    @property
    def mean(self) -> float:
        """Returns the mean over tasks."""
        return float(np.mean(self.values))

    @property
    def ci95(self) -> float:
        """Returns half the width of the mean's 95 % confidence interval."""
        if len(self.values) < 2:
            return float("inf")
        return float(
            1.96 * np.std(self.values, ddof=1) / np.sqrt(len(self.values))
        )
