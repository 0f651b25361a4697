"""Updates the learner's moving averages, counters and seeds."""

import tensorflow as tf

from keras_maml.engine import seeds


def averageable_state(learner, state):
    """Returns the part of a task's state whose mean over tasks is meaningful.

    The result has no seeds. Integers become float64, so that the mean of equal
    counters is exact.
    """
    seed_positions = seeds.seed_positions(learner)
    return {
        i: value if value.dtype.is_floating else tf.cast(value, tf.float64)
        for i, value in state.items()
        if i not in seed_positions
    }


def assign_state(
    learner, mean_state, count, per_step_statistics, has_stepped=None
):
    """Assigns the mean of the state over tasks, and advances every seed.

    Args:
        learner: a built Keras model.
        mean_state: dict, the mean of `averageable_state` over tasks.
        count: scalar, the number of tasks of this replica, which may
            be 0.
        per_step_statistics: dict, from a position in the state to the
            variable that replaces the learner's variable.
        has_stepped: bool tensor. With `False`, only the seeds change. `None`
            stands for `True`.
    """
    variables = list(learner.non_trainable_variables)
    for i, variable in per_step_statistics.items():
        variables[i] = variable
    context = tf.distribute.get_replica_context()
    if context and context.num_replicas_in_sync > 1 and mean_state:
        # Keras would assign the values of the first replica only.
        mean_state = _mean_over_replicas(context, mean_state, count)
    for i, value in mean_state.items():
        if not tf.as_dtype(variables[i].dtype).is_floating:
            value = tf.round(value)
        value = tf.cast(value, variables[i].dtype)
        if has_stepped is not None:
            value = tf.where(has_stepped, value, variables[i].value)
        variables[i].assign(value)
    seeds.advance(learner)


def _mean_over_replicas(context, mean_state, count):
    def total(tensor):
        return context.all_reduce(tf.distribute.ReduceOp.SUM, tensor)

    all_tasks = total(tf.cast(count, tf.float64))

    def mean(tensor):
        share = tf.cast(count, tensor.dtype) / tf.cast(all_tasks, tensor.dtype)
        return total(tensor * share)

    return {i: mean(tensor) for i, tensor in mean_state.items()}
