"""Reports as pictures."""

import numpy as np

from keras_maml.evaluation.report_text import steps_text


def draw(report, path=None):
    """Draws a report, see `EvaluationReport.plot`."""
    make_figure = figure_class()
    calibration = report.calibration()
    panels = 2 if calibration is None else 3
    figure = make_figure(figsize=(4.2 * panels, 3.6), layout="constrained")
    axes = figure.subplots(1, panels)
    _draw_steps(axes[0], report)
    _draw_episodes(axes[1], report)
    if calibration is not None:
        _draw_calibration(axes[2], report)
    figure.suptitle(f"{report.name}: {len(report.episodes):,} episodes")
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def figure_class():
    """Returns the class of figures, or raises `ImportError`."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "`plot` needs matplotlib. Install it with "
            "`pip install 'keras-maml[plots]'`."
        ) from error
    return Figure


def _draw_steps(axes, report):
    """The mean and its intervals after each number of inner steps."""
    steps = np.arange(report.steps + 1)
    summaries = [report.summary(inner_steps=int(n)) for n in steps]
    means = [summary.mean for summary in summaries]
    low, high = np.array([s.ci95 for s in summaries]).T
    if summaries[0].tasks95 is not None:
        outer = np.array([s.tasks95 for s in summaries]).T
        if np.isfinite(outer).all():
            label = f"95 % over {report.independent[0]}"
            axes.fill_between(steps, *outer, color="0.85", label=label)
    if np.isfinite([low, high]).all():
        axes.fill_between(
            steps, low, high, color="0.65", label="95 % over episodes"
        )
    axes.plot(steps, means, "o-", color="black", label="mean")
    if "chance" in report.facts and report.metric.endswith("accuracy"):
        chance = float(np.mean(report.facts["chance"]))
        axes.axhline(chance, color="black", linestyle=":", label="1 / N")
    axes.set_xticks(steps if len(steps) < 12 else steps[:: len(steps) // 6])
    axes.set(xlabel="inner steps", ylabel=f"query {report.metric}")
    axes.legend()


def _draw_episodes(axes, report):
    """The distribution of the episodes' scores."""
    first, last = report.values(inner_steps=0), report.values()
    bins = np.histogram_bin_edges(np.concatenate([first, last]), bins=20)
    axes.hist(
        last,
        bins,
        color="0.6",
        edgecolor="black",
        label=steps_text(report.steps),
    )
    if report.steps:
        axes.hist(
            first,
            bins,
            histtype="step",
            color="black",
            linestyle="--",
            linewidth=1.5,
            label="before adaptation",
        )
    axes.set(xlabel=f"query {report.metric}", ylabel="episodes")
    axes.legend()


def _draw_calibration(axes, report):
    """The reliability diagram, before and after adaptation."""
    axes.plot([0, 1], [0, 1], ":", color="black", label="calibrated")
    styles = {0: ("s--", "0.6"), report.steps: ("o-", "black")}
    for steps, (style, color) in styles.items():
        calibration = report.calibration(steps)
        is_there = calibration.weight > 0
        label = f"{steps_text(steps)},\nECE {calibration.error:.3f}"
        axes.plot(
            calibration.confidence[is_there],
            calibration.accuracy[is_there],
            style,
            color=color,
            label=label,
        )
    axes.set(
        xlabel="confidence (probability)",
        ylabel="share of right predictions",
        xlim=(0, 1),
        ylim=(0, 1),
    )
    axes.legend()
