"""Rows of weight 0 do not count, whatever they hold.

In their place stand rows of the same set that count, in turn, and in the place
of a task of weight 0 the first that counts: batch normalisation sees them. All
tasks are zeros if none of them counts.
"""

import numpy as np
import tensorflow as tf


def filled(x, y, sample_weight):
    """Returns a meta-batch of numpy arrays in which every row counts."""
    x, y = dict(x), y
    if "support_weight" in x:
        rows = _sources(x["support_weight"])
        for key in ("support_x", "support_y"):
            x[key] = _taken(x[key], rows)
    if y is not None and sample_weight is not None:
        shape = y.shape[:2]
        weight = np.broadcast_to(sample_weight, shape)
        rows = _sources(weight)
        x["query_x"], y = _taken((x["query_x"], y), rows)
        counts = weight.any(1)
        tasks = [t if counts[t] else counts.argmax() for t in range(shape[0])]
        x, y = tf.nest.map_structure(
            lambda t: t[tasks] * counts.any().astype(t.dtype), (x, y)
        )
    return x, y, sample_weight


def _sources(weight):
    """Returns the row that stands in each place, of each task."""
    sources = np.empty(weight.shape, int)
    for task, row_weights in enumerate(weight):
        counting = np.flatnonzero(row_weights)
        for row, value in enumerate(row_weights):
            if value or not len(counting):
                sources[task, row] = row
            else:
                sources[task, row] = counting[row % len(counting)]
    return sources


def _taken(arrays, rows):
    return tf.nest.map_structure(
        lambda a: np.stack([a[t][rows[t]] for t in range(len(a))]), arrays
    )
