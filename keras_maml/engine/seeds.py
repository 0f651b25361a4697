"""Random numbers inside the learner: none is drawn twice.

The seeds of a learner's generators are part of its state. Each draw moves the
second number of a seed on by one, so two seeds whose first numbers are equal
may meet. Hence tasks, and calls beside the inner loop, get both numbers anew.
"""

import tensorflow as tf

from keras_maml import keras_internals

# Replicas count their tasks from multiples of this.
_TASKS_OF_A_REPLICA = 2**32

# What `fork` is for.
QUERY_WHILE_ADAPTING = 1
PROTOTYPES = 2
SUPPORT_STATISTICS = 3
SUPPORT_AFTER_ADAPTING = 4


def seed_positions(learner):
    """Positions of random seeds among `learner.non_trainable_variables`."""
    seeds = set(map(id, keras_internals.seed_variables(learner)))
    return [
        i
        for i, variable in enumerate(learner.non_trainable_variables)
        if id(variable) in seeds
    ]


def task_numbers(count):
    """A number for each task of the meta-batch that no replica uses again.

    Args:
        count: int or integer tensor, the tasks of this replica, which may
            differ from replica to replica.

    Returns:
        An int64 tensor `(count,)`.
    """
    context = tf.distribute.get_replica_context()
    replica = context.replica_id_in_sync_group if context else 0
    first = tf.cast(replica, tf.int64) * _TASKS_OF_A_REPLICA
    return first + tf.range(tf.cast(count, tf.int64), dtype=tf.int64)


def task_seeds(learner, number):
    """Seeds of one task, so that no two tasks draw the same numbers.

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
    """The state for a call whose new state nobody takes over.

    Args:
        learner: a built Keras model.
        state: dict, as in `LearnerOutput.state`.
        purpose: int, one of the constants above, different for each call that
            may start from the same state.

    Returns:
        `state` with other seeds in the place of those in it.
    """
    seeds = {
        i: _folded(state[i], tf.constant(purpose, tf.int64))
        for i in seed_positions(learner)
        if i in state
    }
    return {**state, **seeds}


def move_on(learner):
    """Gives every generator of the learner the seed after its own."""
    variables = learner.non_trainable_variables
    for i in seed_positions(learner):
        seed = tf.convert_to_tensor(variables[i].value)
        increment = tf.constant(keras_internals.SEED_INCREMENT, seed.dtype)
        variables[i].assign(seed + increment)


def _folded(seed, number):
    """A seed of which both numbers depend on `seed` and on `number`."""
    folded = tf.random.experimental.stateless_fold_in(
        tf.cast(seed, tf.int64), number
    )
    return tf.random.stateless_uniform(
        [2], folded, minval=None, maxval=None, dtype=seed.dtype
    )
