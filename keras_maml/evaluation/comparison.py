"""compare: whether one model is better than another on the same episodes."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from keras_maml.evaluation import statistics
from keras_maml.evaluation.evaluation_report import EvaluationReport
from keras_maml.evaluation.report_text import interval
from keras_maml.evaluation.report_text import number
from keras_maml.evaluation.report_text import p_text
from keras_maml.evaluation.report_text import steps_text


class Comparison(NamedTuple):
    """A paired comparison of two models, a and b.

    Attributes:
        metric: string, the metric.
        names: tuple of two strings, how to call a and b.
        inner_steps: tuple of two ints, the inner steps of a and of b.
        episodes: int, the number of episodes that both have scores of.
        difference: float, the mean of a's score less b's score.
        ci95: tuple `(low, high)`, the 95 % interval of `difference`.
        p_value: float, of the paired t-test, two-sided.
        cohens_d: float, the mean of the differences over their standard
            deviation. Positive if a has higher values.
        better: float, the share of episodes in which a is better than b. NaN
            if it is unknown whether high values are good.
        over: string, what the interval and p are over: `"episodes"`, or the
            `"groups"`, `"tasks"` or `"classes"` that the episodes share.
        sentence: string, all of it in words.

    Example:

    ```python
    a = keras_maml.EvaluationReport({"loss": [[1.0, 2.0, 3.0]]}, name="a")
    b = keras_maml.EvaluationReport({"loss": [[1.5, 2.3, 3.4]]}, name="b")
    comparison = keras_maml.compare(a, b)
    print(comparison.difference, comparison.p_value)  # -0.4 0.02
    ```
    """

    metric: str
    names: tuple[str, str]
    inner_steps: tuple[int, int]
    episodes: int
    difference: float
    ci95: tuple[float, float]
    p_value: float
    cohens_d: float
    better: float
    over: str
    sentence: str


def compare(
    a: EvaluationReport,
    b: EvaluationReport,
    metric: str | None = None,
    inner_steps: int | Sequence[int | None] | None = None,
) -> Comparison:
    """Compares two models on the episodes that both were evaluated on.

    An easy episode is easy for both models. So the test looks at the
    differences within episodes, and notices what two intervals do not show.

    Args:
        a: `EvaluationReport` of the first model.
        b: `EvaluationReport` of the second model.
        metric: string, a metric of both reports. Defaults to `a.metric`.
        inner_steps: int, or a tuple of the inner steps of a and of b. Defaults
            to the last ones of each report.

    Returns:
        A `Comparison`. If episodes share tasks or classes, its interval and
        its p are over these, or over the groups of tasks: a jackknife leaves
        out one of them at a time.

    Raises:
        ValueError: if the reports share fewer than two episodes, if an
            episode has other data in the other report, or if a report has no
            such metric or number of steps.

    Example:

    ```python
    a = keras_maml.EvaluationReport({"loss": [[1.0, 2.0, 3.0]]}, name="a")
    b = keras_maml.EvaluationReport({"loss": [[1.5, 2.3, 3.4]]}, name="b")
    print(keras_maml.compare(a, b).sentence)
    ```

    Reference:
        Lafargue et al., 2024, "Oops, I Sampled it Again: Reinterpreting
        Confidence Intervals in Few-Shot Learning", on paired tests. Student's
        paired t-test; Cohen's d_z.
    """
    metric = metric or a.metric
    pair = (
        inner_steps
        if isinstance(inner_steps, Sequence)
        else (inner_steps, inner_steps)
    )
    if len(pair) != 2:
        raise ValueError(
            "`inner_steps` must be an int, or a pair of them, for `a` and `b`. "
            f"Received: inner_steps={inner_steps!r}"
        )
    steps_a, steps_b = (
        report.check(metric, steps)[1]
        for report, steps in zip((a, b), pair, strict=True)
    )
    rows_a, rows_b = _shared_rows(a, b)
    differences = a.scores[metric][steps_a][rows_a].astype(np.float64)
    differences -= b.scores[metric][steps_b][rows_b]
    # One of the reports may not know what its episodes share.
    known, rows = (a, rows_a) if a.independent[0] else (b, rows_b)
    over, names = known.independent
    if names is not None:
        estimate = statistics.mean_over_groups(
            differences, [names[row] for row in rows]
        )
    else:
        estimate = statistics.mean_of(differences)
    direction = a.directions.get(metric)
    better = float("nan")
    if direction is not None:
        sign = 1 if direction == "up" else -1
        better = float(np.mean(sign * differences > 0))
    result = Comparison(
        metric,
        (a.name, b.name),
        (steps_a, steps_b),
        len(differences),
        estimate.mean,
        estimate.interval(),
        estimate.p_value(),
        statistics.cohens_d(differences),
        better,
        over or "episodes",
        "",
    )
    return result._replace(sentence=_sentence(result))


def _shared_rows(a, b):
    """Returns the rows of both reports that are of the same episodes."""
    _, rows_a, rows_b = np.intersect1d(
        a.episodes, b.episodes, return_indices=True
    )
    if len(rows_a) < 2:
        raise ValueError(
            "`a` and `b` must share at least two episodes. Received: "
            f"{len(a.episodes)} and {len(b.episodes)} episodes, of which "
            f"{len(rows_a)} have the same number"
        )
    if a.checksums is not None and b.checksums is not None:
        differ = a.checksums[rows_a] != b.checksums[rows_b]
        if differ.any():
            raise ValueError(
                "`a` and `b` must be reports on the same data. Evaluate both "
                "models on the same tasks, with the same seed. Received: "
                f"{differ.sum()} of {len(differ)} episodes with other targets, "
                f"the first of them episode {a.episodes[rows_a][differ][0]}"
            )
    return rows_a, rows_b


def _sentence(result):
    a, b = result.names
    steps_a, steps_b = map(steps_text, result.inner_steps)
    start, where_a, where_b = "", f" {steps_a}", f" {steps_b}"
    if steps_a == steps_b:
        start, where_a, where_b = f"Both {steps_a}: ", "", ""
    more = "higher" if result.difference >= 0 else "lower"
    low, high = result.ci95
    ends = (low, high) if result.difference >= 0 else (-high, -low)
    verdict = "may well be chance"
    if result.p_value < 0.05:
        verdict = "is unlikely to be chance"
    text = (
        f"{start}{result.metric} of {a}{where_a} is "
        f"{number(abs(result.difference))} {more} than of {b}{where_b} "
        f"(95 % interval over {result.over}: {interval(ends)}), on "
        f"{result.episodes:,} episodes. The difference {verdict}: "
        f"{p_text(result.p_value)}, Cohen's d = {result.cohens_d:.2f} "
        f"({_size(result.cohens_d)})."
    )
    if not np.isnan(result.better):
        text += (
            f" {a} is better in {100 * result.better:.0f} % of the episodes."
        )
    return text


def _size(d):
    """Cohen's words for the size of an effect."""
    size = abs(d)
    words = ((0.2, "negligible"), (0.5, "small"), (0.8, "medium"))
    return next((word for limit, word in words if size < limit), "large")
