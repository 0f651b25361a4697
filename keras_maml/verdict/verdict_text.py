"""Verdicts in words and tables."""

import numpy as np

from keras_maml.evaluation.report_text import interval
from keras_maml.evaluation.report_text import number
from keras_maml.evaluation.report_text import p_text
from keras_maml.verdict.decision import error_of

LABELS = {
    "pooled": "one model for all tasks",
    "own": "a model of each task's own",
    "fine-tuned": "the model for all tasks, fine-tuned",
    "prototypes": "prototypes",
    "anil": "ANIL",
    "maml": "MAML",
}
# Tasks of which a sentence names the ones that are not helped.
_MOST_NAMES = 5
# Of so few tasks, an interval says little.
_FEW = 10


def markdown(verdict):
    """Returns a verdict as Markdown."""
    lines = [f"# Should I adapt? {verdict.answer.capitalize()}", ""]
    first, *others = sentences(verdict)
    lines += [f"**{first}**", ""]
    lines += [f"- {sentence}" for sentence in others]
    lines += ["", *_table(verdict), "", *_notes(verdict)]
    return "\n".join(lines) + "\n"


def sentences(verdict):
    """Returns a verdict in words, a list of sentences."""
    return [
        _advice(verdict),
        _tasks(verdict),
        _test(verdict),
        *_others(verdict),
        *_worst(verdict),
        *_calibration(verdict),
        _cost(verdict),
        *alarms(verdict),
    ]


def alarms(verdict):
    """Returns a sentence for each reason to doubt a verdict."""
    found, facts = [], verdict.facts
    improve = [n for n, r in verdict.reports.items() if r.facts.get("improves")]
    improve = [name for name in improve if name != "fine-tuned"]
    if improve:
        found.append(
            f"The training of {_listed(improve)} still improved when its "
            "budget was spent. A larger `budget` may change the verdict."
        )
    limits = dict.fromkeys(("own", "fine-tuned"), facts.get("most_steps"))
    limits |= dict.fromkeys(("anil", "maml"), 3 * facts.get("inner_steps", 0))
    at_limit = [
        name
        for name, report in verdict.reports.items()
        if any(
            s["steps"] == limits.get(name)
            for s in report.facts.get("settings", ())
        )
    ]
    if at_limit:
        found.append(
            f"{_capital(_listed(at_limit))} took as many inner steps as they "
            "may. More may be better."
        )
    for name, report in verdict.reports.items():
        skipped = report.facts.get("skipped", 0)
        if skipped:
            found.append(
                f"{_label(name)} diverged on {skipped} test episodes, which do "
                "not count in its scores."
            )
    count = len(task_errors(verdict.reports["pooled"]))
    if count < _FEW:
        found.append(
            f"There were {count} test tasks only. Another {count} may give "
            "another answer."
        )
    return found


def progress(report):
    """Returns a line about a candidate that is complete."""
    facts = report.facts
    settings = facts["settings"]
    return (
        f"{report.name:10}  {report.metric} {number(report.summary().mean)}, "
        f"{settings['steps']} steps, "
        f"inner rate {number(settings['inner_rate'])}, "
        f"search {facts['search_seconds']:.0f} s"
    )


def _advice(verdict):
    choice = verdict.choice
    if verdict.answer == "unclear":
        return (
            "These test tasks do not show whether adapting helps. Test more "
            "tasks, or use one model for all tasks."
        )
    if verdict.answer == "no":
        text = "Do not adapt: use one model for all tasks."
        gain = verdict.gains[verdict.best]
        if gain > 0 and verdict.comparisons[verdict.best].p_value < 0.05:
            text += f" Adapting takes away {100 * gain:.1f} % of its error."
        return text
    text = {
        "own": "Train a model of each task's own: no other is shown to be "
        "better.",
        "fine-tuned": "Adapt: train one model for all tasks, and fine-tune it.",
    }.get(choice, f"Adapt: use {LABELS.get(choice, choice)}.")
    if choice != verdict.best:
        text += f" {_label(verdict.best)} is not shown to be better."
    return text


def _test(verdict):
    best = verdict.reports[verdict.best]
    pooled = verdict.reports["pooled"]
    comparison = verdict.comparisons[verdict.best]
    change = verdict.gains[verdict.best]
    word = "falls" if change >= 0 else "rises"
    high = best.directions.get(best.metric) == "up"
    error = f"1 - {best.metric}" if high else best.metric
    return (
        f"On tasks that nobody trained on, {best.metric} is "
        f"{number(best.summary().mean)} with {LABELS.get(verdict.best)} (the "
        f"best that adapts) and {number(pooled.summary().mean)} with one model "
        f"for all tasks. So the error, {error}, {word} by "
        f"{100 * abs(change):.0f} %. The difference is "
        f"{number(comparison.difference)} (95 % interval over "
        f"{comparison.over}: {interval(comparison.ci95)}; "
        f"{p_text(comparison.p_value)}; Cohen's d = {comparison.cohens_d:.2f})."
    )


def _tasks(verdict):
    settings = verdict.reports[verdict.best].facts.get("settings", ())
    if len(settings) and not any(s["steps"] for s in settings):
        if verdict.best in ("own", "fine-tuned", "anil", "maml"):
            return (
                "Validation tasks chose 0 inner steps for "
                f"{LABELS[verdict.best]}: no step helps."
            )
    here = task_errors(verdict.reports[verdict.best])
    there = task_errors(verdict.reports["pooled"])
    shared = [name for name in here if name in there]
    worse = [name for name in shared if here[name] >= there[name]]
    text = (
        f"{_label(verdict.best)} has a lower error on "
        f"{len(shared) - len(worse)} of {len(shared)} "
    )
    if named_tasks(verdict.reports["pooled"]) is None:
        return f"{text}episodes."
    text += "tasks."
    if worse and len(worse) <= _MOST_NAMES:
        text += f" It does not help {_and(', '.join(n) for n in worse)}."
    return text


def _others(verdict):
    gain = verdict.gains[verdict.best]
    if verdict.answer != "yes":
        return
    parts = [
        f"{LABELS.get(name, name)} "
        + (
            f"{100 * verdict.gains[name] / gain:.0f} %"
            if verdict.gains[name] > 0
            else "nothing"
        )
        for name in verdict.reports
        if name not in ("pooled", verdict.best)
    ]
    if parts:
        yield (
            f"Of the gain of {LABELS.get(verdict.best)}, others get: "
            f"{'; '.join(parts)}."
        )


def _worst(verdict):
    names = ("pooled", verdict.best)
    pooled, best = (worst_tenth(verdict.reports[name]) for name in names)
    metric = verdict.reports["pooled"].metric
    yield (
        f"In the worst tenth, {metric} is {number(best)} with "
        f"{LABELS.get(verdict.best)} and {number(pooled)} with one model for "
        "all tasks."
    )


def worst_tenth(report):
    """Returns the mean score of the worst tenth of the tasks."""
    return float(np.mean([task.score for task in report.worst()]))


def _calibration(verdict):
    names = ("pooled", verdict.best)
    both = [verdict.reports[name].calibration() for name in names]
    if None not in both:
        yield (
            "The expected calibration error is "
            f"{number(both[1].error)} with {LABELS.get(verdict.best)} and "
            f"{number(both[0].error)} with one model for all tasks."
        )


def _cost(verdict):
    best = verdict.reports[verdict.best].facts
    pooled = verdict.reports["pooled"].facts
    if "training_seconds" not in best or "seconds" not in best:
        return "The cost is unknown."
    return (
        f"To adapt to one task with {LABELS.get(verdict.best)} and to predict "
        f"its queries takes {number(1000 * best['seconds'])} ms, and "
        f"{number(1000 * pooled['seconds'])} ms without adapting. Training "
        f"takes {best['training_seconds']:.0f} s, and "
        f"{pooled['training_seconds']:.0f} s for one model for all tasks."
    )


def _table(verdict):
    pooled = verdict.reports["pooled"]
    metric = pooled.metric
    has_calibration = pooled.calibration() is not None
    header = ["candidate", metric, "95 %", "worst tenth", "p, d to pooled"]
    header += ["ECE"] if has_calibration else []
    header += ["inner steps, rate", "ms a task", "training, search s"]
    yield f"| {' | '.join(header)} |"
    yield f"|{'---|' * len(header)}"
    for name, report in verdict.reports.items():
        summary = report.summary()
        comparison = verdict.comparisons.get(name)
        cells = [
            LABELS.get(name, name),
            number(summary.mean),
            interval(summary.tasks95 or summary.ci95),
            number(worst_tenth(report)),
            ""
            if comparison is None
            else f"{p_text(comparison.p_value)}, {comparison.cohens_d:.2f}",
        ]
        if has_calibration:
            cells.append(number(report.calibration().error))
        yield f"| {' | '.join(cells + _cost_cells(report.facts))} |"


def _cost_cells(facts):
    settings = facts.get("settings", ())
    steps = ", ".join(
        f"{s['steps']} at {s['inner_rate']:.2g}" if s["steps"] else "0"
        for s in settings
    )
    if "training_seconds" not in facts:
        return [steps, "", ""]
    return [
        steps,
        number(1000 * facts["seconds"]),
        f"{facts['training_seconds']:.0f}, {facts['search_seconds']:.0f}",
    ]


def _notes(verdict):
    facts = verdict.facts
    if "budget" not in facts:
        return
    steps = "; ".join(
        f"{LABELS.get(name, name)} {report.facts['training_steps']:,}"
        for name, report in verdict.reports.items()
        if report.facts.get("training_steps") and name != "fine-tuned"
    )
    over = verdict.reports["pooled"].independent[0] or "episodes"
    yield (
        f"Each training has {facts['budget']:,} gradient evaluations on "
        f"meta-batches of {facts['meta_batch_size']} tasks, in steps: {steps}. "
        "Trials of learning rates of each candidate, from which validation "
        f"tasks choose: {facts['trials']}. Candidates are tested on the same "
        f"episodes. Intervals are over {over}; p is that of a paired test, "
        "and only the one in the text above was planned (validation tasks "
        "chose it)."
    )


def task_errors(report):
    """Returns a dict from the names of tasks to their mean errors."""
    rows = {}
    tasks = named_tasks(report)
    for i, error in enumerate(error_of(report)):
        name = (str(report.episodes[i]),) if tasks is None else tasks[i]
        rows.setdefault(name, []).append(error)
    return {name: float(np.mean(errors)) for name, errors in rows.items()}


def named_tasks(report):
    """Returns the task of each episode, or `None` if it has none by name."""
    tasks = report.tasks
    # An episode of several classes is no task that one could name.
    if tasks is None or any(len(names) != 1 for names in tasks):
        return None
    return tasks


def _label(name):
    return _capital(LABELS.get(name, name))


def _capital(text):
    return text[0].upper() + text[1:]


def _listed(names):
    return _and(LABELS.get(name, name) for name in names)


def _and(parts):
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last
