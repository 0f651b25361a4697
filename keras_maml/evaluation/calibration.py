"""Whether a classifier is right as often as it is sure."""

from typing import NamedTuple

import numpy as np


class Calibration(NamedTuple):
    """The predictions of a classifier, sorted by confidence.

    Attributes:
        weight: array `(bins,)`, the number of predictions in each bin. Bins
            have the same width, from 0 to 1.
        confidence: array `(bins,)`, the mean probability of the predicted
            class. NaN in an empty bin.
        accuracy: array `(bins,)`, the share of right predictions. NaN in an
            empty bin.

    Reference:
        Guo et al., 2017, "On Calibration of Modern Neural Networks",
        eqs. 2, 3 and 5.
    """

    weight: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @classmethod
    def from_sums(cls, sums: np.ndarray) -> "Calibration":
        """Returns the calibration of sums `(bins, 3)`.

        Args:
            sums: array, for each bin the sums of the weights, of the
                confidences and of the right predictions.
        """
        weight, confidence, right = np.asarray(sums, np.float64).T
        filled = np.where(weight > 0, weight, np.nan)
        return cls(weight, confidence / filled, right / filled)

    @property
    def error(self) -> float:
        """The expected calibration error, between 0 and 1."""
        gaps = np.abs(self.accuracy - self.confidence)
        return float(np.nansum(self.weight * gaps) / np.sum(self.weight))
