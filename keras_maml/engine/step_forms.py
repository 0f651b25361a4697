"""How a step runs, and whether an error can end it."""

import tensorflow as tf

from keras_maml.engine.replicas import number_of_replicas


def compiles_whole_step(meta_model):
    """Returns whether XLA compiles whole steps, which cannot fail then."""
    strategy = tf.distribute.get_strategy()
    return meta_model.jit_compile is True or isinstance(
        strategy, tf.distribute.TPUStrategy
    )


def traced_steps_can_fail(meta_model):
    """Returns whether a traced step raises errors.

    Where replicas exchange sums, an error would end these for the rest of the
    process.
    """
    return number_of_replicas() == 1 and not compiles_whole_step(meta_model)


def steps_can_fail(meta_model):
    """Returns whether the step that runs now, or is traced, raises errors."""
    if tf.executing_eagerly() or traced_steps_can_fail(meta_model):
        return True
    # In a loop of the user's own, nobody reads a report.
    is_read = meta_model.meta_state.bad_tasks.is_read
    return not is_read and not compiles_whole_step(meta_model)
