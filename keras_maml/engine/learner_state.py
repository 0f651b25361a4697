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


def kept_unless(counts, learner, mean_state, per_step_statistics):
    """Returns the mean of the state over tasks, or else the old state.

    Args:
        counts: bool scalar. Whether the mean means anything.
        learner: a built Keras model.
        mean_state: dict, the mean of `averageable_state` over tasks.
        per_step_statistics: as in `assign_state`.
    """
    variables = _variables(learner, per_step_statistics)
    return {
        i: tf.where(counts, value, tf.cast(variables[i].value, value.dtype))
        for i, value in mean_state.items()
    }


def assign_state(learner, mean_state, per_step_statistics, has_stepped=None):
    """Assigns the mean of the state over tasks, and advances every seed.

    Args:
        learner: a built Keras model.
        mean_state: dict, the mean of `averageable_state` over tasks, those of
            all replicas.
        per_step_statistics: dict, from a position in the state to the
            variable that replaces the learner's variable.
        has_stepped: bool tensor. With `False`, only the seeds change. `None`
            stands for `True`.
    """
    variables = _variables(learner, per_step_statistics)
    for i, value in mean_state.items():
        if not tf.as_dtype(variables[i].dtype).is_floating:
            value = tf.round(value)
        value = tf.cast(value, variables[i].dtype)
        if has_stepped is not None:
            value = tf.where(has_stepped, value, variables[i].value)
        variables[i].assign(value)
    seeds.advance(learner)


def _variables(learner, per_step_statistics):
    """Returns the variables of the state, by position."""
    variables = list(learner.non_trainable_variables)
    for i, variable in per_step_statistics.items():
        variables[i] = variable
    return variables
