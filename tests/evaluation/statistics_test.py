"""Intervals and tests against SciPy, and against what is worked out by hand."""

import itertools

import numpy as np
import pytest
import scipy.stats

from keras_maml.evaluation import statistics
from keras_maml.evaluation.calibration import Calibration

SKEWED = np.random.default_rng(0).exponential(size=60)


@pytest.mark.parametrize("freedom", [1, 2, 9, 100, 9999])
def test_students_t(freedom):
    for probability in (0.6, 0.975, 0.9995):
        quantile = statistics.t_quantile(probability, freedom)
        expected = scipy.stats.t.ppf(probability, freedom)
        assert quantile == pytest.approx(expected, rel=1e-9)
    for t in (0.0, 0.3, -2.0, 40.0):
        p = statistics.t_two_sided(t, freedom)
        assert p == pytest.approx(2 * scipy.stats.t.sf(abs(t), freedom))


def test_mean_over_episodes():
    estimate = statistics.mean_of(SKEWED)
    expected = scipy.stats.ttest_1samp(SKEWED, 0)
    assert estimate.p_value() == pytest.approx(expected.pvalue)
    np.testing.assert_allclose(
        estimate.interval(), expected.confidence_interval()
    )
    assert statistics.mean_of([3.0]).interval() == (-np.inf, np.inf)
    assert np.isnan(statistics.mean_of([3.0]).p_value())
    assert statistics.mean_of([2.0, 2.0]).p_value() == 0
    assert statistics.mean_of([0.0, 0.0]).p_value() == 1


def test_bootstrap():
    two_columns = np.stack([SKEWED, np.full(60, 7.0)], -1)
    skewed, constant = statistics.bootstrap_intervals(two_columns)
    expected = scipy.stats.bootstrap(
        [SKEWED], np.mean, n_resamples=20_000, rng=np.random.default_rng(1)
    ).confidence_interval
    # The two draw other resamples.
    np.testing.assert_allclose(skewed, expected, rtol=0.02)
    assert constant.tolist() == [7, 7]
    # The long tail is on the right.
    mean = SKEWED.mean()
    assert skewed[1] - mean > 1.1 * (mean - skewed[0])
    one = statistics.bootstrap_intervals(np.ones((1, 1)))
    assert one.tolist() == [[-np.inf, np.inf]]


def test_mean_over_tasks():
    values = np.array([1.0, 3.0, 5.0, 9.0, 2.0])
    groups = [("a",), ("a",), ("b",), ("b",), ("c",)]
    estimate = statistics.mean_over_groups(values, groups)
    # The means without a, b and c are 16 / 3, 2 and 18 / 4.
    without = np.array([16 / 3, 2.0, 4.5])
    variance = 2 / 3 * np.sum((without - without.mean()) ** 2)
    assert estimate.mean == 4
    assert estimate.error == pytest.approx(np.sqrt(variance))
    assert estimate.freedom == 2


def test_episodes_that_are_tasks_of_their_own():
    groups = [(str(i),) for i in range(60)]
    by_task = statistics.mean_over_groups(SKEWED, groups)
    alone = statistics.mean_of(SKEWED)
    np.testing.assert_allclose(by_task, alone)


def test_mean_over_shared_classes():
    # Each episode draws two of six classes, and its score is the sum of theirs:
    # the mean over all pairs is twice the mean over classes.
    of_class = np.array([1.0, 2.0, 4.0, 7.0, 7.0, 9.0])
    pairs = list(itertools.combinations(range(6), 2))
    scores = [of_class[i] + of_class[j] for i, j in pairs]
    names = [(f"c{i}", f"c{j}") for i, j in pairs]
    estimate = statistics.mean_over_groups(scores, names)
    expected = 2 * np.std(of_class, ddof=1) / np.sqrt(6)
    assert estimate.mean == pytest.approx(10)
    assert estimate.error == pytest.approx(expected)


def test_a_group_in_every_episode():
    estimate = statistics.mean_over_groups([1.0, 2.0], [("a", "b"), ("a",)])
    assert np.isnan(estimate.error)
    assert estimate.interval() == (-np.inf, np.inf)


def test_cohens_d():
    assert statistics.cohens_d([1.0, 2.0, 3.0]) == 2
    assert statistics.cohens_d([0.0, 0.0]) == 0
    assert statistics.cohens_d([-1.0, -1.0]) == -np.inf


def test_expected_calibration_error():
    # Ten predictions of confidence 0.6, half of them right; 30 of 0.9, of which
    # 21 are right; and an empty bin.
    sums = [[10, 6, 5], [0, 0, 0], [30, 27, 21]]
    calibration = Calibration.from_sums(sums)
    np.testing.assert_allclose(calibration.confidence, [0.6, np.nan, 0.9])
    np.testing.assert_allclose(calibration.accuracy, [0.5, np.nan, 0.7])
    assert calibration.error == pytest.approx((10 * 0.1 + 30 * 0.2) / 40)
