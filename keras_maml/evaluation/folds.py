"""Folds of a support set, and the coverage that they give."""

import math
from typing import NamedTuple

import numpy as np

from keras_maml.validation import check_integer

# Up to this number of examples, each is a fold of its own.
_LEAVE_ONE_OUT = 50
_FOLDS = 10


class Rank(NamedTuple):
    """How many of the sorted residuals a prediction may exceed.

    Attributes:
        examples: int, the number of support examples.
        position: int, from 1 to `examples`.
    """

    examples: int
    position: int

    @property
    def coverage(self) -> float:
        """The expected coverage, if residuals can be exchanged."""
        return self.position / (self.examples + 1)

    def guarantee(self, fold_of: np.ndarray) -> float:
        """Returns the coverage that folds guarantee for any learner.

        Reference:
            Barber et al., 2021, "Predictive inference with the jackknife+",
            theorem 1 for folds of one example, and theorem 4.
        """
        number, count = fold_of.max() + 1, self.examples
        slack = min(
            2 * (1 - 1 / number) / (count / number + 1),
            (1 - number / count) / (number + 1),
        )
        return float(1 - 2 * (1 - self.coverage) - slack)


def rank(count, miscoverage):
    """Returns the `Rank` of a coverage of at least `1 - miscoverage`."""
    if not 0 < miscoverage < 1:
        raise ValueError(
            "`miscoverage` must lie between 0 and 1. "
            f"Received: miscoverage={miscoverage!r}"
        )
    # In floating point, 0.9 times 20 may be a little more than 18.
    position = math.ceil((1 - miscoverage) * (count + 1) - 1e-9)
    if position > count:
        raise ValueError(
            "`miscoverage` must be at least 1 / (S + 1) with S support "
            f"examples. Received: miscoverage={miscoverage} and {count} "
            f"support examples, of which the least is {1 / (count + 1):.3f}"
        )
    return Rank(count, position)


def assign(count, labels, number):
    """Assigns support examples to folds.

    Args:
        count: int, the number of support examples.
        labels: integer array `(count,)`, their classes, or `None`.
        number: int, the number of folds, or `None` for the default.

    Returns:
        An integer array `(count,)`, the fold of each example.
    """
    if labels is None:
        turn, most = np.arange(count), count
        default = count if count <= _LEAVE_ONE_OUT else _FOLDS
    else:
        turn = np.zeros(count, int)
        for label in set(labels):
            rows = np.flatnonzero(labels == label)
            turn[rows] = np.arange(len(rows))
        default = most = int(np.bincount(labels)[np.unique(labels)].min())
    if most < 2:
        raise ValueError(
            "`support_y` must have at least two examples"
            f"{' of each class' if labels is not None else ''}: one is left "
            f"out, and the others are learned. Received: {most} example"
        )
    if number is None:
        number = default
    return turn % check_integer("folds", number, 2, most)
