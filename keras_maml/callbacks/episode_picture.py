"""A picture of how a learner adapts to one episode."""

import io

import numpy as np
import tensorflow as tf


def draw(episode, classes):
    """Draws an episode.

    Args:
        episode: dict of arrays: `"support_x"`, `"support_y"`, `"query_x"` and
            `"query_y"`, the data; `"outputs"`, `(steps + 1, Q, ...)`, the
            predictions before the first step and after each;
            `"support_loss"`, `(steps,)`, and `"query_loss"`, `(steps + 1,)`.
        classes: a `ClassPredictions`, or `None`.

    Returns:
        The bytes of a PNG.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_losses(left, episode)
    if classes is not None:
        _draw_classes(figure, right, episode, classes)
    elif _is_curve(episode):
        _draw_curve(right, episode)
    else:
        _draw_values(right, episode)
    figure.suptitle("the first episode")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()


def _draw_losses(axes, episode):
    support, query = episode["support_loss"], episode["query_loss"]
    if len(support):
        axes.plot(support, "s--", color="0.5", label="support")
    axes.plot(query, "o-", color="black", label="query")
    axes.set_xticks(range(0, len(query), max(1, len(query) // 8)))
    axes.set(xlabel="inner steps", ylabel="loss")
    axes.legend()


def _is_curve(episode):
    """Whether inputs and outputs are one number each."""
    return all(
        np.size(episode[key][0]) == 1 for key in ("query_x", "query_y")
    ) and isinstance(episode["query_x"], np.ndarray)


def _draw_curve(axes, episode):
    order = np.argsort(episode["query_x"].ravel())
    x = episode["query_x"].ravel()[order]
    outputs = episode["outputs"]
    axes.plot(x, outputs[0].ravel()[order], "--", color="0.5", label="before")
    axes.plot(
        x,
        outputs[-1].ravel()[order],
        "-",
        color="black",
        label=f"after {len(outputs) - 1} inner steps",
    )
    axes.plot(
        x, episode["query_y"].ravel()[order], "x", color="0.3", label="queries"
    )
    axes.plot(
        episode["support_x"].ravel(),
        episode["support_y"].ravel(),
        "o",
        color="black",
        markerfacecolor="white",
        label="support",
    )
    axes.set(xlabel="x", ylabel="y")
    axes.legend()


def _draw_values(axes, episode):
    truth = episode["query_y"].ravel()
    outputs = episode["outputs"]
    ends = [truth.min(), truth.max()]
    axes.plot(ends, ends, ":", color="black", label="right")
    for values, color, label in (
        (outputs[0], "white", "before"),
        (outputs[-1], "0.4", f"after {len(outputs) - 1} inner steps"),
    ):
        axes.plot(
            truth,
            values.ravel(),
            "o",
            color="black",
            markerfacecolor=color,
            label=label,
        )
    axes.set(xlabel="target", ylabel="prediction")
    axes.legend()


def _draw_classes(figure, axes, episode, classes):
    outputs = tf.constant(episode["outputs"])
    labels = classes.labels(tf.constant(episode["query_y"]), outputs[0])
    labels = labels.numpy().reshape(len(labels), -1)[:, 0]
    probabilities = classes.probabilities(outputs).numpy()
    # Of a sequence, the first step.
    probabilities = probabilities.reshape(
        *probabilities.shape[:2], -1, probabilities.shape[-1]
    )[:, :, 0]
    order = np.argsort(labels, kind="stable")
    of_truth = probabilities[:, order, labels[order]]
    image = axes.imshow(
        of_truth.T,
        cmap="gray",
        vmin=0,
        vmax=1,
        aspect="auto",
        interpolation="nearest",
    )
    axes.set_xticks(range(0, len(of_truth), max(1, len(of_truth) // 8)))
    shown = range(0, len(labels), max(1, len(labels) // 12))
    axes.set_yticks(shown, [str(labels[order[i]]) for i in shown])
    axes.set(xlabel="inner steps", ylabel="queries, by class")
    figure.colorbar(image, ax=axes, label="probability of the right class")
