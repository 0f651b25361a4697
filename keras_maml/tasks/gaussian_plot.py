"""The picture of `GaussianTasks`: P, the p_i and their points."""

from typing import Any

import numpy as np


def plot(tasks: Any, indices: list[int], path: Any, ax: Any) -> Any:
    """Draws the picture; see `GaussianTasks.plot`."""
    # Not pyplot, which keeps every figure and looks for a window system.
    from matplotlib.figure import Figure

    if ax is None:
        ax = Figure(figsize=(6, 6), layout="constrained").add_subplot()
    if tasks.kind == "density":
        _draw_densities(tasks, indices, ax)
    else:
        _draw_regressions(tasks, indices, ax)
    ax.plot([], [], "o", color="0.3", label="support")
    ax.plot([], [], "o", color="0.3", mfc="none", label="query")
    ax.legend(fontsize="small")
    if path is not None:
        ax.figure.savefig(path, dpi=120)
    return ax


def _draw_densities(tasks, indices, ax):
    for deviations in (3, 2, 1):
        outline = _ellipse(np.zeros(2), tasks.covariance[:2, :2], deviations)
        ax.fill(*outline, color="0.5", alpha=0.15, lw=0)
    ax.fill([], [], color="0.5", alpha=0.4, label=r"$P$, over $\mu_i$")
    for number, index in enumerate(indices):
        color = f"C{number % 10}"
        parameters = tasks.parameters(index)
        spread = np.diag(np.exp(2.0 * parameters["log_sigma"]))
        for deviations in (1, 2):
            outline = _ellipse(parameters["mean"], spread, deviations)
            ax.plot(*outline, color=color, lw=1.5 / deviations)
        ax.plot(*parameters["mean"], "+", color=color, ms=10)
        ax.plot([], [], color=color, label=f"$p_{{{index}}}$")
        x, query_y = tasks.episode(index)
        ax.plot(*x["support_y"].T, "o", color=color, ms=4)
        ax.plot(*query_y.T, "o", color=color, ms=4, mfc="none")
    ax.set_aspect("equal", adjustable="datalim")
    ax.set_xlabel("$y_1$")
    ax.set_ylabel("$y_2$")


def _draw_regressions(tasks, indices, ax):
    line_x = np.linspace(-3.0, 3.0, 121)
    basis = np.stack([line_x, np.ones_like(line_x)])
    variance = np.einsum("ix,ij,jx->x", basis, tasks.covariance, basis)
    for deviations in (3, 2, 1):
        half = deviations * np.sqrt(variance + tasks.noise**2)
        ax.fill_between(line_x, -half, half, color="0.5", alpha=0.15, lw=0)
    ax.fill([], [], color="0.5", alpha=0.4, label="$P$, over $y$ given $x$")
    for number, index in enumerate(indices):
        color = f"C{number % 10}"
        parameters = tasks.parameters(index)
        line = parameters["weights"] * line_x + parameters["bias"]
        ax.plot(line_x, line, color=color, lw=1, label=f"$p_{{{index}}}$")
        low, high = line - tasks.noise, line + tasks.noise
        ax.fill_between(line_x, low, high, color=color, alpha=0.3, lw=0)
        x, query_y = tasks.episode(index)
        ax.plot(x["support_x"], x["support_y"], "o", color=color, ms=4)
        ax.plot(x["query_x"], query_y, "o", color=color, ms=4, mfc="none")
    ax.set_xlabel("$x$")
    ax.set_ylabel("$y$")


def _ellipse(mean, covariance, deviations):
    angle = np.linspace(0.0, 2.0 * np.pi, 121)
    circle = np.stack([np.cos(angle), np.sin(angle)])
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(values.clip(0.0))
    return mean[:, None] + deviations * root @ circle
