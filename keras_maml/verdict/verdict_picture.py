"""Verdicts as pictures."""

import numpy as np

from keras_maml.evaluation.report_picture import figure_class
from keras_maml.verdict.decision import error_of
from keras_maml.verdict.verdict_text import LABELS
from keras_maml.verdict.verdict_text import named_tasks
from keras_maml.verdict.verdict_text import task_errors


def draw(verdict, path=None):
    """Draws a verdict, see `Verdict.plot`."""
    has_calibration = verdict.reports["pooled"].calibration() is not None
    panels = 3 if has_calibration else 2
    figure = figure_class()(
        figsize=(4.4 * panels + 1, 3.8), layout="constrained"
    )
    axes = figure.subplots(1, panels)
    _draw_candidates(axes[0], verdict)
    _draw_tasks(axes[1], verdict)
    if has_calibration:
        _draw_calibration(axes[2], verdict)
    figure.suptitle(f"Should I adapt? {verdict.answer.capitalize()}")
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def _error_name(report):
    is_up = report.directions.get(report.metric) == "up"
    return f"1 - {report.metric}" if is_up else report.metric


def _draw_candidates(axes, verdict):
    """The error of each candidate, its interval, and the worst tenth."""
    names = list(verdict.reports)
    for i, report in enumerate(verdict.reports.values()):
        summary = report.summary()
        ends = error_of(report, summary.tasks95 or summary.ci95)
        mean = float(error_of(report).mean())
        if np.isfinite(ends).all():
            axes.plot(
                np.sort(ends),
                [i, i],
                color="0.55",
                linewidth=5,
                solid_capstyle="butt",
                label="95 % interval" if not i else None,
            )
        axes.plot(mean, i, "o", color="black", label=None if i else "mean")
        worst = error_of(report, [t.score for t in report.worst()]).mean()
        axes.plot(
            worst,
            i,
            "^",
            color="black",
            markerfacecolor="white",
            label=None if i else "worst tenth of tasks",
        )
    axes.set_yticks(range(len(names)))
    axes.set_yticklabels([_wrapped(LABELS.get(name, name)) for name in names])
    axes.invert_yaxis()
    axes.set(xlabel=f"error ({_error_name(verdict.reports['pooled'])})")
    axes.set_xlim(left=0)
    # Below the panel: within it, the legend could hide a candidate.
    axes.legend(
        fontsize="small",
        loc="upper center",
        bbox_to_anchor=(0.4, -0.17),
        ncol=3,
    )


def _draw_tasks(axes, verdict):
    """The error of each task with the best candidate, and without."""
    best = task_errors(verdict.reports[verdict.best])
    pooled = task_errors(verdict.reports["pooled"])
    shared = [name for name in pooled if name in best]
    x = np.array([pooled[name] for name in shared])
    y = np.array([best[name] for name in shared])
    high = 1.05 * max(x.max(), y.max(), 1e-12)
    axes.plot([0, high], [0, high], ":", color="black", label="no difference")
    is_named = named_tasks(verdict.reports["pooled"]) is not None
    kind = "task" if is_named else "episode"
    axes.plot(
        x,
        y,
        "o",
        color="black",
        markerfacecolor="0.7",
        markersize=4,
        label=f"one {kind}; below the line,\nadapting helps",
    )
    name = _error_name(verdict.reports["pooled"])
    axes.set(
        xlabel=f"error ({name}) of {LABELS['pooled']}",
        ylabel=f"error of {LABELS.get(verdict.best, verdict.best)}",
        xlim=(0, high),
        ylim=(0, high),
    )
    axes.legend(fontsize="small")


def _draw_calibration(axes, verdict):
    """The reliability diagram, with and without adapting."""
    axes.plot([0, 1], [0, 1], ":", color="black", label="calibrated")
    styles = {"pooled": ("s--", "0.55"), verdict.best: ("o-", "black")}
    for name, (style, color) in styles.items():
        calibration = verdict.reports[name].calibration()
        is_there = calibration.weight > 0
        axes.plot(
            calibration.confidence[is_there],
            calibration.accuracy[is_there],
            style,
            color=color,
            markersize=4,
            label=f"{LABELS.get(name, name)},\nECE {calibration.error:.3f}",
        )
    axes.set(
        xlabel="confidence (probability)",
        ylabel="share of right predictions",
        xlim=(0, 1),
        ylim=(0, 1),
    )
    # Hardly any model is sure and mostly wrong: this corner is free.
    axes.legend(fontsize="small", loc="lower right")


def _wrapped(label):
    return label.replace(", ", ",\n").replace("model ", "model\n", 1)
