"""Paired comparisons against SciPy."""

import numpy as np
import pytest
import scipy.stats

import keras_maml
from keras_maml import EvaluationReport

RANDOM = np.random.default_rng(0)
DIFFICULTY = RANDOM.normal(size=30)
A = DIFFICULTY + 0.2 * RANDOM.normal(size=30) + 0.3
B = DIFFICULTY + 0.2 * RANDOM.normal(size=30)


def report(values, **kwargs):
    kwargs = {"name": "a", "directions": {"score": "up"}, **kwargs}
    return EvaluationReport({"score": np.atleast_2d(values)}, **kwargs)


def test_paired_test():
    result = keras_maml.compare(report(A), report(B, name="b"))
    a, b = A.astype("f").astype("d"), B.astype("f").astype("d")
    expected = scipy.stats.ttest_rel(a, b)
    assert result.p_value == pytest.approx(expected.pvalue)
    np.testing.assert_allclose(result.ci95, expected.confidence_interval())
    assert result.difference == pytest.approx(np.mean(a - b))
    assert result.cohens_d == pytest.approx(
        np.mean(a - b) / np.std(a - b, ddof=1)
    )
    assert result.better == np.mean(a > b)
    # Unpaired, nothing would show.
    assert scipy.stats.ttest_ind(a, b).pvalue > 0.1 > 1e-4 > result.p_value
    assert "Both before adaptation: score of a is 0.32" in result.sentence
    assert "is unlikely to be chance" in result.sentence


def test_only_shared_episodes_are_compared():
    a = report(A, episodes=range(30))
    b = report(B[::-1], episodes=range(39, 9, -1))
    result = keras_maml.compare(a, b)
    assert result.episodes == 20
    expected = scipy.stats.ttest_rel(A[10:], B[:20])
    assert result.p_value == pytest.approx(expected.pvalue, 1e-4)
    assert result.difference == pytest.approx(np.mean(A[10:] - B[:20]), 1e-5)


def test_steps_of_each():
    a = report([[1.0, 2.0], [3.0, 5.0]])
    b = report([[2.5, 4.0]], name="b")
    result = keras_maml.compare(a, b)
    assert (result.inner_steps, result.difference) == ((1, 0), 0.75)
    assert "score of a after 1 inner step is 0.75 higher" in result.sentence
    assert "than of b before adaptation (" in result.sentence
    assert "may well be chance" in result.sentence
    other = keras_maml.compare(a, b, inner_steps=(0, 0))
    assert other.difference == -1.75
    assert "1.75 lower" in other.sentence


def test_over_tasks():
    names = [str(i // 3) for i in range(30)]
    result = keras_maml.compare(report(A, tasks=names), report(B, tasks=names))
    assert result.over == "tasks"
    # Tasks of one size: as if their means were compared.
    means = (A - B).reshape(10, 3).mean(1)
    expected = scipy.stats.ttest_1samp(means, 0)
    assert result.p_value == pytest.approx(expected.pvalue, rel=1e-4)
    # Either report may know the tasks.
    for a, b in (
        (report(A, tasks=names), report(B)),
        (report(A), report(B, tasks=names)),
    ):
        one = keras_maml.compare(a, b)
        assert (one.over, one.p_value) == ("tasks", result.p_value)


def test_over_groups_of_tasks():
    # Each task once, three of a group.
    tasks = [f"task {i}" for i in range(30)]
    groups = [str(i // 3) for i in range(30)]
    over_tasks = keras_maml.compare(report(A, tasks=groups), report(B))
    for a, b in (
        (report(A, tasks=tasks, groups=groups), report(B, tasks=tasks)),
        (report(A, tasks=tasks), report(B, tasks=tasks, groups=groups)),
    ):
        result = keras_maml.compare(a, b)
        assert (result.over, result.p_value) == ("groups", over_tasks.p_value)
        assert "over groups" in result.sentence


def test_unknown_direction():
    result = keras_maml.compare(
        report(A, directions=None), report(B, directions=None)
    )
    assert np.isnan(result.better)
    assert "is better" not in result.sentence


@pytest.mark.parametrize(
    ("b", "kwargs", "message"),
    [
        (report(B, episodes=range(29, 59)), {}, "share at least two"),
        (report(B, checksums=[1] * 29 + [2]), {}, "1 of 30 episodes .* 29$"),
        (report(B), {"metric": "mae"}, "`metric` must be one of"),
        (report(B), {"inner_steps": 1}, "`inner_steps` must be an integer"),
        (report(B), {"inner_steps": (0, 0, 0)}, "an int, or a pair of them"),
    ],
    ids=["episodes", "data", "metric", "steps", "three steps"],
)
def test_what_cannot_be_compared(b, kwargs, message):
    with pytest.raises(ValueError, match=message):
        keras_maml.compare(report(A, checksums=[1] * 30), b, **kwargs)
