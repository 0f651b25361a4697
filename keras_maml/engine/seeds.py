"""Seeds for the learner, so that it never draws the same numbers twice.

The seeds of a learner's generators are part of its state. A seed is two
numbers, and each draw adds 1 to the second number. Two seeds with the same
first number could therefore become equal. So each task, and each call outside
the inner loop, gets two new numbers.
"""

import tensorflow as tf

from keras_maml import keras_internals
from keras_maml.exact import random_numbers
from keras_maml.exact import task_axis

# Each replica numbers its tasks from a multiple of this number.
_TASKS_OF_A_REPLICA = 2**32

# Purposes of `fork`.
QUERY_WHILE_ADAPTING = 1
PROTOTYPES = 2
SUPPORT_STATISTICS = 3
SUPPORT_AFTER_ADAPTING = 4


def seed_positions(learner):
    """Returns the positions of seeds in `learner.non_trainable_variables`."""
    seeds = set(map(id, keras_internals.seed_variables(learner)))
    return [
        i
        for i, variable in enumerate(learner.non_trainable_variables)
        if id(variable) in seeds
    ]


def task_numbers(count):
    """Numbers the tasks of a meta-batch, differently on each replica.

    Args:
        count: int or integer tensor, the number of tasks of this replica.

    Returns:
        An int64 tensor `(count,)`.
    """
    context = tf.distribute.get_replica_context()
    replica = context.replica_id_in_sync_group if context else 0
    first = tf.cast(replica, tf.int64) * _TASKS_OF_A_REPLICA
    return first + tf.range(tf.cast(count, tf.int64), dtype=tf.int64)


def task_seeds(learner, number):
    """Returns the seeds of one task. No other task draws the same numbers.

    Args:
        learner: a built Keras model.
        number: int64 scalar, one of `task_numbers`.

    Returns:
        A state dict with one seed for each of the learner's generators.
    """
    variables = learner.non_trainable_variables
    return {
        i: _folded(tf.convert_to_tensor(variables[i].value), number)
        for i in seed_positions(learner)
    }


def fork(learner, state, purpose):
    """Returns the state for a call whose new state is not kept.

    Args:
        learner: a built Keras model.
        state: dict, as in `LearnerOutput.state`.
        purpose: int, one of the constants above. Calls that start from the
            same state need different purposes.

    Returns:
        A copy of `state` with new seeds.
    """
    new_seeds = {
        i: _folded(state[i], tf.constant(purpose, tf.int64))
        for i in seed_positions(learner)
        if i in state
    }
    return {**state, **new_seeds}


def advance(learner):
    """Advances every seed of the learner by one draw."""
    variables = learner.non_trainable_variables
    for i in seed_positions(learner):
        seed = tf.convert_to_tensor(variables[i].value)
        increment = tf.constant(keras_internals.SEED_INCREMENT, seed.dtype)
        variables[i].assign(seed + increment)


def _folded(seed, number):
    """Returns a seed whose two numbers depend on `seed` and on `number`."""
    if task_axis.is_vectorized():
        folded = random_numbers.fold_in(tf.cast(seed, tf.int64), number)
        return random_numbers.uniform([2], folded, None, None, seed.dtype)
    folded = tf.random.experimental.stateless_fold_in(
        tf.cast(seed, tf.int64), number
    )
    return tf.random.stateless_uniform(
        [2], folded, minval=None, maxval=None, dtype=seed.dtype
    )
