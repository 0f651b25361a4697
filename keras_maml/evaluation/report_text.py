"""Reports in words and tables."""

import numpy as np

from keras_maml.evaluation import statistics

# Of a p below, chance is no explanation.
_ALARM = 0.001
# Rows of the table of the worst tasks, and episodes that a row names.
_MOST_TASKS = 10
_MOST_EPISODES = 5


def markdown(report):
    """Returns a report as Markdown."""
    count = len(report.episodes)
    lines = [f"# Scores of {report.name}", "", f"{_episodes(count)}."]
    if report.independent[0]:
        lines[-1] = f"{_episodes(count)} of {_groups(report)}."
    skipped = report.facts.get("skipped", 0)
    if skipped:
        lines[-1] += f" {_episodes(skipped)} not finite, left out."
    lines += ["", *_scores(report)]
    lines += [""] if alarms(report) else []
    lines += [f"**Alarm.** {alarm}" for alarm in alarms(report)]
    facts = [*_statistics(report), *_calibration(report), *_others(report)]
    lines += ["", *(f"- {fact}" for fact in facts)] if facts else []
    if report.directions.get(report.metric):
        lines += ["", *_worst(report)]
    return "\n".join(lines) + "\n"


def alarms(report):
    """Returns a sentence for each reason to doubt a report's scores."""
    return [*_away_from_chance(report), *_copies(report)]


def _away_from_chance(report):
    before, chance = report.facts.get("before"), report.facts.get("chance")
    if before is None:
        return
    estimate = statistics.mean_of(np.subtract(before, chance))
    if estimate.p_value() < _ALARM:
        yield (
            f"Before adaptation, {number(np.mean(before))} of the predictions "
            f"are right, and 1 / N is {number(np.mean(chance))} "
            f"({p_text(estimate.p_value())}). If each episode draws its labels "
            "anew, labels leak: look for queries among the support examples, "
            "and for labels that follow from the order of the examples. If a "
            "label means the same in every task, a model that does not adapt "
            "may be enough."
        )


def _copies(report):
    count = report.facts.get("copies", 0)
    if count:
        yield (
            f"In {_episodes(count)}, copies of other queries take the place of "
            "queries of weight 0, and `metrics` count them. Compile the model "
            "with `weighted_metrics` in their place."
        )


def number(value):
    """Returns a number with four digits."""
    return f"{value:.4g}" if np.isfinite(value) else "unknown"


def interval(ends):
    """Returns an interval `(low, high)` in words."""
    if not np.isfinite(ends).all():
        return "unknown"
    return f"{number(ends[0])} to {number(ends[1])}"


def p_text(p):
    """Returns a p-value in words."""
    if np.isnan(p):
        return "p is unknown"
    return f"p = {p:.2g}" if p >= 1e-4 else "p < 0.0001"


def steps_text(steps):
    """Returns a number of inner steps in words."""
    if not steps:
        return "before adaptation"
    return f"after {steps} inner step{'s' * (steps > 1)}"


def _episodes(count):
    return f"{count:,} episode{'s' * (count > 1)}"


def _groups(report):
    over, of_each = report.independent
    return f"{len({n for names in of_each for n in names}):,} {over}"


def _scores(report):
    header = "| metric | inner steps | mean | 95 % over episodes | bootstrap |"
    rule = "|---|---|---|---|---|"
    if report.independent[0]:
        header += f" 95 % over {_groups(report)} |"
        rule += "---|"
    yield header
    yield rule
    for metric in report.scores:
        for steps in range(report.steps + 1):
            summary = report.summary(metric, steps)
            cells = [
                metric,
                str(steps),
                number(summary.mean),
                interval(summary.ci95),
                interval(summary.bootstrap95),
            ]
            if summary.tasks95 is not None:
                cells.append(interval(summary.tasks95))
            yield f"| {' | '.join(cells)} |"


def _statistics(report):
    other = report.facts.get("other_scores")
    if other is None or report.metric not in other:
        return
    here = report.values()
    there = np.asarray(other[report.metric])
    gap = statistics.mean_of(here.astype(np.float64) - there)
    yield (
        f"Statistics of batch normalization: {report.metric} is "
        f"{number(np.mean(here))} with `{report.facts['normalization']}` and "
        f"{number(np.mean(there))} with `{report.facts['other_statistics']}`. "
        f"The gap is {number(gap.mean)} ({interval(gap.interval())})."
    )


def _calibration(report):
    if report.calibration() is None:
        return
    errors = [
        number(report.calibration(steps).error)
        for steps in range(report.steps + 1)
    ]
    yield (
        "Expected calibration error after 0, 1, ... inner steps: "
        f"{', '.join(errors)}."
    )


def _others(report):
    facts = report.facts
    if "gradient_norm" in facts:
        yield (
            "Sensitivity of θ: the norm of the support gradient is "
            f"{number(np.mean(facts['gradient_norm']))}, and the query loss "
            f"changes by {number(np.mean(facts['loss_change']))} for each unit "
            "that the weights move in the first step."
        )
    if "seconds" in facts:
        yield (
            f"One adaptation takes {number(1000 * facts['seconds'])} ms, "
            "with the predictions."
        )


def _worst(report):
    tasks = report.worst()
    yield f"The worst tenth by {report.metric}, {steps_text(report.steps)}:"
    yield ""
    yield "| task | " + report.metric + " | episodes |"
    yield "|---|---|---|"
    for task in tasks[:_MOST_TASKS]:
        episodes = ", ".join(map(str, task.episodes[:_MOST_EPISODES]))
        more = len(task.episodes) - _MOST_EPISODES
        if more > 0:
            episodes += f" and {more} more"
        yield f"| {', '.join(task.names)} | {number(task.score)} | {episodes} |"
    if len(tasks) > _MOST_TASKS:
        yield f"| and {len(tasks) - _MOST_TASKS} more | | |"
