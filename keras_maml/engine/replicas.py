"""What the replicas of a distribution strategy know of one another."""

import keras
import tensorflow as tf

# By the aggregation of a metric's variable: the factor of its value on this
# replica, of `number` replicas, in the sum over replicas.
_FACTORS = {
    "sum": lambda replica, number: 1.0,
    "mean": lambda replica, number: 1.0 / number,
}


def number_of_replicas():
    """Returns the number of replicas of the distribution strategy."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def check_losses(meta_model):
    """Raises `ValueError` if a loss grows with the number of replicas."""
    number = number_of_replicas()
    if number == 1:
        return
    for loss in tf.nest.flatten(meta_model.loss):
        # Keras divides the mean of a loss by the number of replicas, and a sum
        # by nothing.
        if getattr(loss, "reduction", None) == "sum":
            raise ValueError(
                'A loss with `reduction="sum"` grows with the number of '
                "replicas, and so would each step. Use "
                '"sum_over_batch_size". '
                f"Received: loss={loss!r} and {number} replicas"
            )


def mean_over_tasks(means, counts, sums=()):
    """Returns means over the tasks of all replicas.

    A replica may have fewer tasks than another, or none. All values travel
    together, because each exchange between machines has its delay.

    Args:
        means: dict of structures of floating tensors, the means over the tasks
            of this replica.
        counts: dict of float scalars, the number of tasks in each of `means`.
        sums: structure of floating tensors, of which the sum over replicas is
            wanted.

    Returns:
        A tuple of structures like `means`, `counts` and `sums`, over all
        replicas. With one replica, these are the arguments.
    """
    if number_of_replicas() == 1:
        return means, counts, sums
    totals = {
        key: tf.nest.map_structure(
            lambda t, n=counts[key]: t * tf.cast(n, t.dtype), mean
        )
        for key, mean in means.items()
    }
    totals, counts, sums = _sum_over_replicas((totals, counts, sums))
    means = {
        key: tf.nest.map_structure(
            lambda t, n=counts[key]: tf.math.divide_no_nan(
                t, tf.cast(n, t.dtype)
            ),
            total,
        )
        for key, total in totals.items()
    }
    return means, counts, sums


def metric_values(metrics):
    """Returns this replica's share in the values of metrics' variables.

    Args:
        metrics: list of `keras.Metric`.

    Returns:
        A list of floating tensors, whose sums over replicas are the values.
        With one replica, an empty list.
    """
    number = number_of_replicas()
    if number == 1:
        return []
    replica = tf.distribute.get_replica_context().replica_id_in_sync_group
    first = tf.cast(tf.equal(replica, 0), tf.float32)
    shares = []
    for variable in _variables(metrics):
        factor = _FACTORS.get(variable.aggregation, lambda *_: first)
        value = tf.convert_to_tensor(variable.value)
        if not value.dtype.is_floating:
            value = tf.cast(value, tf.float64)
        shares.append(value * tf.cast(factor(replica, number), value.dtype))
    return shares


def with_metric_values(metrics, values, fn):
    """Calls `fn` while the variables of metrics have the given values.

    Args:
        metrics: list of `keras.Metric`.
        values: the sums over replicas of `metric_values`.
        fn: function without arguments that returns a dict.

    Returns:
        The result of `fn`, or an empty dict if there are no values.
    """
    if not values:
        return {}
    mapping = [
        (variable, tf.cast(value, variable.dtype))
        for variable, value in zip(_variables(metrics), values, strict=True)
    ]
    with keras.StatelessScope(mapping):
        return fn()


def _variables(metrics):
    return [variable for metric in metrics for variable in metric.variables]


def _sum_over_replicas(structure):
    """Returns the sum over replicas of each tensor, one exchange a dtype."""
    context = tf.distribute.get_replica_context()
    flat = tf.nest.flatten(structure)
    result = [None] * len(flat)
    for dtype in sorted({t.dtype for t in flat}, key=lambda d: d.name):
        positions = [i for i, t in enumerate(flat) if t.dtype == dtype]
        totals = context.all_reduce(
            tf.distribute.ReduceOp.SUM, [flat[i] for i in positions]
        )
        for i, total in zip(positions, totals, strict=True):
            result[i] = total
    return tf.nest.pack_sequence_as(structure, result)
