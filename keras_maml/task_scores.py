"""Scores of many tasks: their mean, and how sure it is."""

from typing import NamedTuple

import numpy as np


class TaskScores(NamedTuple):
    """Scores of many tasks after a number of inner steps.

    Attributes:
        values: array `(tasks,)`, the mean of the metric over each task's
            queries.

    Example:

    ```python
    scores = keras_maml.TaskScores(np.array([0.5, 0.75, 1.0]))
    print(f"{scores.mean:.2f} ± {scores.ci95:.2f}")  # 0.75 ± 0.28
    ```
    """

    values: np.ndarray

    @property
    def mean(self) -> float:
        """The mean over tasks."""
        return float(np.mean(self.values))

    @property
    def ci95(self) -> float:
        """Half the width of the 95 % confidence interval of the mean."""
        if len(self.values) < 2:
            return float("inf")
        return float(
            1.96 * np.std(self.values, ddof=1) / np.sqrt(len(self.values))
        )
