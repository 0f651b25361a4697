"""Rows and tasks of weight 0, which may hold anything.

A weight of 0 does not keep NaN out of a loss: 0 · NaN is NaN. Rows of weight 0
are therefore replaced by rows of the same set that count, in turn. So they also
add nothing foreign to the statistics of `BatchNormalization`. Tasks of weight 0
are replaced by the first task of their replica that counts. If none counts,
zeros replace them, and move no statistics (`learner_state.kept_unless`). In a
row of a sequence of which some steps count, NaN in the others becomes 0.
"""

import tensorflow as tf


def filled(x, y=None, sample_weight=None):
    """Returns inputs and targets of a meta-batch, all of which count.

    Args:
        x: dict of tensors, the inputs of a meta-batch.
        y: structure of tensors `(T, Q, ...)`, the query targets, or `None`.
        sample_weight: structure of weights `(T, Q, ...)` or `(T, 1)`, or
            `None`.

    Returns:
        A tuple `(x, y)`.
    """
    x = _filled_support(x)
    if y is None or sample_weight is None:
        return x, y
    return _filled_queries(x, y, tf.nest.flatten(sample_weight))


def count(number, sample_weight):
    """Returns the number of tasks whose statistics mean something.

    Args:
        number: float scalar, the number of tasks.
        sample_weight: as in `filled`. If all weights are 0, zeros stand in the
            place of all tasks.
    """
    weights = tf.nest.flatten(sample_weight)
    counts = [tf.reduce_any(w != 0) for w in weights if w is not None]
    if not counts:
        return number
    return tf.where(tf.reduce_any(tf.stack(counts)), number, 0.0)


def tasks_with_weight(sample_weight):
    """Returns whether queries of a task have a weight.

    Args:
        sample_weight: structure of weights `(T, Q, ...)` or `(T, 1)`.

    Returns:
        Two bool tensors `(T,)`: whether any query has one, and whether all do.
    """
    weights = [
        tf.reshape(weight != 0, [tf.shape(weight)[0], -1])
        for weight in tf.nest.flatten(sample_weight)
    ]
    has_any = [tf.reduce_any(weight, 1) for weight in weights]
    has_all = [tf.reduce_all(weight, 1) for weight in weights]
    return tf.reduce_any(has_any, 0), tf.reduce_all(has_all, 0)


def _filled_support(x):
    if "support_weight" not in x:
        return x
    rows = _rows_that_count(x["support_weight"] != 0)
    return {
        **x,
        "support_x": tf.nest.map_structure(rows, x["support_x"]),
        "support_y": tf.nest.map_structure(rows, x["support_y"]),
    }


def _filled_queries(x, y, weights):
    targets = tf.nest.flatten(y)
    queries = tf.shape(targets[0])[1]
    counted = [_counted(weight, queries) for weight in weights]
    rows = _rows_that_count(tf.reduce_any(tf.stack(counted), 0))
    tasks = _tasks_that_count(tf.reduce_any(tf.stack(counted), [0, 2]))
    query_x = tf.nest.map_structure(rows, x["query_x"])
    x = tf.nest.map_structure(tasks, {**x, "query_x": query_x})
    if len(counted) == len(targets):
        target_rows = [_rows_that_count(each) for each in counted]
    else:
        target_rows = [rows] * len(targets)
    if len(weights) != len(targets):
        weights = weights[:1] * len(targets)
    targets = [
        tasks(fill(_finite_steps(target, weight)))
        for fill, target, weight in zip(
            target_rows, targets, weights, strict=True
        )
    ]
    return x, tf.nest.pack_sequence_as(y, targets)


def has_weight(weight, target):
    """Returns whether values have a weight, of a shape that broadcasts."""
    while weight.shape.rank > target.shape.rank and weight.shape[-1] == 1:
        weight = tf.squeeze(weight, -1)
    while weight.shape.rank < target.shape.rank:
        weight = weight[..., tf.newaxis]
    return weight != 0


def _finite_steps(target, weight):
    """Returns a target without NaN in the steps of weight 0."""
    if weight.shape.rank < 3 or not target.dtype.is_floating:
        return target
    counts = has_weight(weight, target) | tf.math.is_finite(target)
    return tf.where(counts, target, tf.zeros_like(target))


def _counted(weight, queries):
    """Returns which queries count, `(T, Q)`."""
    counted = weight != 0
    if counted.shape.rank > 2:
        # Some of a sequence's steps count.
        counted = tf.reduce_any(counted, list(range(2, counted.shape.rank)))
    return tf.broadcast_to(counted, [tf.shape(counted)[0], queries])


def _rows_that_count(counted):
    """Returns a function that fills the rows of `(T, rows, ...)`."""
    # Rows that count first, each group in its order.
    order = tf.argsort(tf.cast(~counted, tf.int32), axis=1, stable=True)
    numbers = tf.reduce_sum(tf.cast(counted, tf.int32), 1, keepdims=True)
    turn = tf.range(tf.shape(counted)[1])[tf.newaxis]
    turn = tf.math.floormod(turn, tf.maximum(numbers, 1))
    source = tf.gather(order, turn, batch_dims=1)
    source = tf.where(counted, tf.range(tf.shape(counted)[1]), source)

    def fill(tensor):
        filled = tf.gather(tensor, source, batch_dims=1)
        # A task may have no row that counts.
        axes = [1] * (tensor.shape.rank - 2)
        any_counts = tf.reshape(numbers > 0, [-1, 1, *axes])
        filled = tf.where(any_counts, filled, tf.zeros_like(filled))
        return tf.ensure_shape(filled, tensor.shape)

    return fill


def _tasks_that_count(counted):
    """Returns a function that fills the tasks of `(T, ...)`."""
    numbers = tf.range(tf.shape(counted)[0])
    first = tf.reduce_min(tf.where(counted, numbers, tf.int32.max))
    # A replica may have no task, or none that counts.
    first = tf.minimum(first, tf.size(numbers) - 1)
    source = tf.where(counted, numbers, first)
    any_task = tf.reduce_any(counted)

    def fill(tensor):
        tasks = tf.gather(tensor, source)
        tasks = tf.where(any_task, tasks, tf.zeros_like(tasks))
        return tf.ensure_shape(tasks, tensor.shape)

    return fill
