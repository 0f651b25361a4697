"""Data that are wrong on purpose, for the fuzz test."""

import numpy as np
import tensorflow as tf

# Any of them must be refused by name; `FINITE` only if tasks are not skipped.
FAULTS = (
    "missing key",
    "unknown key",
    "fewer support targets",
    "fewer query targets",
    "fewer query tasks",
    "no support",
    "no queries",
    "no tasks",
    "texts",
    "one axis",
    "wide targets",
    "label too high",
    "label below zero",
    "label of a half",
    "sparse tensor",
    "weights of one axis",
    "nan in support",
    "nan in queries",
    "infinite target",
)
NOT_FINITE = ("nan in support", "nan in queries", "infinite target")


def with_fault(fault, x, y, sample_weight):
    """Returns a copy of a meta-batch with a fault in it.

    Returns:
        `(x, y, sample_weight)`, or `None` if the data cannot have the fault,
        such as a label that is too high where there are no labels.
    """
    x = tf.nest.map_structure(np.array, x)
    y = np.array(y)
    has_labels = y.dtype.kind == "i"
    first = tf.nest.flatten(x["support_x"])[0]
    if fault == "missing key":
        del x["support_y"]
    elif fault == "unknown key":
        x["query_y"] = y
    elif fault == "fewer support targets":
        x["support_y"] = x["support_y"][:, 1:]
    elif fault == "fewer query targets":
        y = y[:, 1:]
    elif fault == "fewer query tasks":
        x["query_x"] = tf.nest.map_structure(lambda t: t[1:], x["query_x"])
    elif fault == "no support":
        for key in set(x) - {"query_x"}:
            x[key] = tf.nest.map_structure(lambda t: t[:, :0], x[key])
    elif fault == "no queries":
        x["query_x"] = tf.nest.map_structure(lambda t: t[:, :0], x["query_x"])
        y = y[:, :0]
        if sample_weight is not None:
            sample_weight = sample_weight[:, :0]
    elif fault == "no tasks":
        x, y, sample_weight = tf.nest.map_structure(
            lambda t: None if t is None else t[:0], (x, y, sample_weight)
        )
    elif fault == "texts":
        y = y.astype(str)
    elif fault == "one axis":
        x["support_y"] = x["support_y"].reshape(-1)[: len(y)]
    elif fault == "wide targets":
        y = np.stack([y, y, y], -1)
    elif fault == "label too high" and has_labels:
        y[-1, -1] = 1000
    elif fault == "label below zero" and has_labels:
        x["support_y"][0, 0] = -1
    elif fault == "label of a half" and has_labels:
        y = y + 0.5
    elif fault == "sparse tensor":
        x["support_y"] = tf.sparse.from_dense(x["support_y"])
    elif fault == "weights of one axis":
        sample_weight = np.ones(len(y), "float32")
    elif fault in NOT_FINITE and first.dtype.kind == "f":
        _make_not_finite(fault, x, y)
    else:
        return None
    return x, y, sample_weight


def _make_not_finite(fault, x, y):
    if fault == "nan in support":
        tf.nest.flatten(x["support_x"])[0][-1, 0] = np.nan
    elif fault == "nan in queries" or y.dtype.kind != "f":
        tf.nest.flatten(x["query_x"])[0][-1, 0] = np.nan
    else:
        y[-1, 0] = np.inf
