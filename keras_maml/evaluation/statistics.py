"""Means of scores: intervals, tests and effect sizes.

A group is what episodes share: a person, or a class of images. Scores of
episodes that share a group are not independent.
"""

import functools
import statistics
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

# Resamples of a bootstrap, and of how many of them at a time. Their seed makes
# the interval a fact of the scores.
_RESAMPLES = 2000
_CHUNK = 50

_NORMAL = statistics.NormalDist()


class Estimate(NamedTuple):
    """An estimated mean.

    Attributes:
        mean: float.
        error: float, the standard error of the mean. NaN if unknown.
        freedom: int, the degrees of freedom of `error`.
    """

    mean: float
    error: float
    freedom: int

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Returns Student's interval `(low, high)` of the mean."""
        if self.freedom < 1 or np.isnan(self.error):
            return -np.inf, np.inf
        width = t_quantile((1 + level) / 2, self.freedom) * self.error
        return self.mean - width, self.mean + width

    def p_value(self) -> float:
        """Returns the two-sided p of the hypothesis that the mean is 0."""
        if self.freedom < 1 or np.isnan(self.error):
            return float("nan")
        if self.error == 0:
            return float(self.mean == 0)
        return t_two_sided(self.mean / self.error, self.freedom)


def mean_of(values: np.ndarray) -> Estimate:
    """Estimates the mean of independent values `(n,)`."""
    values = np.asarray(values, np.float64)
    count = len(values)
    error = float("nan")
    if count > 1:
        error = float(np.std(values, ddof=1) / np.sqrt(count))
    return Estimate(float(np.mean(values)), error, count - 1)


def mean_over_groups(
    values: np.ndarray, groups: Sequence[tuple[str, ...]]
) -> Estimate:
    """Estimates the mean of values that share groups.

    The jackknife leaves out one group at a time, with all episodes that have
    part in it. If each episode belongs to one group, the error is that of
    standard errors which are robust to clusters. If each episode draws `n` of
    `G` groups, the mean is a U-statistic of the groups, whose error the
    jackknife estimates too.

    Args:
        values: array `(n,)`.
        groups: for each value the names of its groups.

    Returns:
        An `Estimate`. Its error is NaN if a group has part in all values.

    Reference:
        Arvesen, 1969, "Jackknifing U-statistics"; MacKinnon et al., 2023,
        "Cluster-robust inference: A guide to empirical practice", eq. 15.
    """
    values = np.asarray(values, np.float64)
    numbers: dict[str, int] = {}
    rows, columns = [], []
    for row, names in enumerate(groups):
        for name in set(names):
            rows.append(row)
            columns.append(numbers.setdefault(name, len(numbers)))
    count = len(numbers)
    sums = np.bincount(columns, values[rows], count)
    sizes = np.bincount(columns, minlength=count)
    mean = float(np.mean(values))
    if count < 2 or (sizes == len(values)).any():
        return Estimate(mean, float("nan"), count - 1)
    without = (values.sum() - sums) / (len(values) - sizes)
    squares = np.sum((without - without.mean()) ** 2)
    error = float(np.sqrt((count - 1) / count * squares))
    return Estimate(mean, error, count - 1)


def bootstrap_intervals(values: np.ndarray, level: float = 0.95) -> np.ndarray:
    """Returns the BCa bootstrap intervals of the means of columns.

    Args:
        values: array `(n, columns)`.
        level: float.

    Returns:
        An array `(columns, 2)`: low and high. Infinite if `n` is 1.

    Reference:
        Efron, 1987, "Better bootstrap confidence intervals", eqs. 2.3 and 6.6.
    """
    values = np.asarray(values, np.float64)
    count, columns = values.shape
    if count < 2:
        return np.tile([-np.inf, np.inf], (columns, 1))
    random = np.random.default_rng(0)
    offsets = count * np.arange(_CHUNK)[:, np.newaxis]
    means = []
    for _ in range(_RESAMPLES // _CHUNK):
        drawn = random.integers(count, size=(_CHUNK, count)) + offsets
        times = np.bincount(drawn.ravel(), minlength=_CHUNK * count)
        means.append(times.reshape(_CHUNK, count) @ values / count)
    resampled = np.concatenate(means)
    return np.stack(
        [
            _bca(column, values[:, i], level)
            for i, column in enumerate(resampled.T)
        ]
    )


def _bca(means, values, level):
    """Returns the BCa interval of a mean, from the means of resamples."""
    mean = values.mean()
    deviations = values - mean
    squares = np.sum(deviations**2)
    if squares == 0:
        return np.array([mean, mean])
    below = (np.mean(means < mean) + np.mean(means <= mean)) / 2
    shift = _NORMAL.inv_cdf(float(np.clip(below, 1e-9, 1 - 1e-9)))
    # The skewness of the mean's jackknife values, over 6.
    skew = np.sum(deviations**3) / (6 * squares**1.5)
    ends = []
    for tail in ((1 - level) / 2, (1 + level) / 2):
        z = shift + _NORMAL.inv_cdf(tail)
        ends.append(_NORMAL.cdf(float(shift + z / (1 - skew * z))))
    return np.quantile(means, ends)


def cohens_d(differences: np.ndarray) -> float:
    """Returns Cohen's d of paired differences `(n,)`: mean / deviation.

    Reference:
        Cohen, 1988, "Statistical power analysis", section 2.3.5 (d_z).
    """
    differences = np.asarray(differences, np.float64)
    deviation = np.std(differences, ddof=1)
    mean = differences.mean()
    if deviation == 0:
        return float(np.sign(mean) * np.inf) if mean else 0.0
    return float(mean / deviation)


def t_two_sided(t: float, freedom: int) -> float:
    """Returns the probability that Student's t is at least `abs(t)` from 0."""
    x = freedom / (freedom + t * t)
    return float(
        tf.math.betainc(
            tf.constant(freedom / 2, tf.float64),
            tf.constant(0.5, tf.float64),
            tf.constant(x, tf.float64),
        )
    )


@functools.lru_cache
def t_quantile(probability: float, freedom: int) -> float:
    """Returns the quantile of Student's t for a probability above 0.5."""
    tail = 2 * (1 - probability)
    low, high = 0.0, 1.0
    while t_two_sided(high, freedom) > tail:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        if t_two_sided(middle, freedom) > tail:
            low = middle
        else:
            high = middle
    return (low + high) / 2
