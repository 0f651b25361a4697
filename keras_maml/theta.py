"""θ: all that the outer loop trains."""

from typing import NamedTuple


class Theta(NamedTuple):
    """θ, as variables or as their values.

    Attributes:
        weights: list, one entry for each of the learner's trainable variables,
            adapted or not.
        parameters: list, what the inner optimizer learns, such as its rates.
        scales: list, the per-step scales and shifts of batch normalisation.
    """

    weights: list
    parameters: list
    scales: list
