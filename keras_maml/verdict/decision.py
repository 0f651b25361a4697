"""What follows from the scores of candidates."""

from typing import NamedTuple

import numpy as np

from keras_maml.evaluation.comparison import compare

# A p below is no chance; a smaller share of the error is not worth the trouble.
_CHANCE = 0.05
_WORTHWHILE = 0.05


class Decision(NamedTuple):
    """Whether to adapt, and how.

    Attributes:
        answer: `"yes"`, `"no"` or `"unclear"`.
        choice: string, the candidate to use.
        best: string, the candidate that is best on validation tasks, of those
            that adapt.
        gains: dict from a candidate to the share of the pooled model's error
            that it takes away.
        comparisons: dict from a candidate to its `Comparison` with the pooled
            model.
    """

    answer: str
    choice: str
    best: str
    gains: dict
    comparisons: dict


def decide(reports):
    """Returns a `Decision`.

    Validation tasks choose the candidate that is compared with the pooled
    model, so the test is of one hypothesis. The choice is the simplest
    candidate that the best one does not beat by a worthwhile margin.

    Args:
        reports: dict from the name of a candidate to its `EvaluationReport`,
            the simplest one first.
    """
    adapting = [name for name in reports if name != "pooled"]
    best = min(adapting, key=lambda name: reports[name].facts["error"])
    pooled = reports["pooled"]
    gains = {name: _gain(reports[name], pooled) for name in reports}
    comparisons = {name: compare(reports[name], pooled) for name in adapting}
    beats = _beats(reports[best], pooled)
    if beats:
        rivals = [n for n in adapting if not _beats(reports[best], reports[n])]
        choice = next(name for name in adapting if name in (*rivals, best))
        answer = "yes"
    else:
        choice = "pooled"
        is_unclear = (
            gains[best] >= _WORTHWHILE
            and not comparisons[best].p_value < _CHANCE
        )
        answer = "unclear" if is_unclear else "no"
    return Decision(answer, choice, best, gains, comparisons)


def error_of(report, values=None):
    """Returns scores as errors: one less the score, if high ones are good."""
    values = report.values() if values is None else values
    values = np.asarray(values, np.float64)
    is_up = report.directions.get(report.metric) == "up"
    return 1 - values if is_up else values


def _gain(a, b):
    """Returns the share of b's error that a takes away."""
    shared = np.intersect1d(a.episodes, b.episodes)
    errors = [
        float(error_of(r)[np.isin(r.episodes, shared)].mean()) for r in (a, b)
    ]
    return (errors[1] - errors[0]) / abs(errors[1]) if errors[1] else 0.0


def _beats(a, b):
    """Returns whether a is better than b, and not a little or by chance."""
    return (
        not a.facts["skipped"]
        and _gain(a, b) >= _WORTHWHILE
        and compare(a, b).p_value < _CHANCE
    )
