"""Checks of what is only known when a step runs, and not when it is traced.

XLA drops them: a step that it compiles as a whole must be checked outside.
"""

import tensorflow as tf


def check_lengths(tensors, axis, sentence, received, or_one=False):
    """Checks that tensors have the same length along an axis, at least 1.

    Args:
        tensors: structure of tensors of known rank.
        axis: int.
        sentence: string, what must be true.
        received: string, "Received: ..." for the error of a trace.
        or_one: bool. Whether a tensor may have the length 1 instead.

    Returns:
        The result of `require`, or `None` if all lengths are known.

    Raises:
        ValueError: if known lengths differ, or are 0.
    """
    tensors = tf.nest.flatten(tensors)
    lengths = {tensor.shape[axis] for tensor in tensors}
    known = lengths - {None}
    # A replica for which no task is left gets empty arrays.
    is_alone = tf.distribute.get_strategy().num_replicas_in_sync == 1
    if len(known - {1} if or_one else known) > 1 or (0 in known and is_alone):
        raise ValueError(f"{sentence} {received}")
    if None not in lengths:
        return None
    lengths = tf.stack([tf.shape(tensor)[axis] for tensor in tensors])
    is_right = lengths == tf.reduce_max(lengths)
    if or_one:
        is_right |= lengths == 1
    if is_alone:
        is_right &= lengths > 0
    return require(
        tf.reduce_all(is_right),
        f"{sentence} Received: arrays whose lengths along axis {axis} are",
        lambda: [lengths],
    )


def require(condition, sentence, received):
    """Raises an error unless a condition holds.

    Args:
        condition: boolean scalar.
        sentence: string, the message.
        received: function that returns a list of tensors and strings, which
            the message ends with.

    Returns:
        In a graph, a tensor that raises `tf.errors.InvalidArgumentError` if it
        is read. `None` in eager execution.

    Raises:
        ValueError: in eager execution.
    """
    if tf.executing_eagerly():
        if not condition:
            words = [getattr(v, "numpy", lambda v=v: v)() for v in received()]
            raise ValueError(" ".join([sentence, *map(str, words)]))
        return None

    def fail():
        error = tf.debugging.Assert(condition, [sentence, *received()], 10)
        with tf.control_dependencies([error]):
            return tf.constant(False)

    return tf.cond(condition, lambda: tf.constant(True), fail)


def after(checks, values):
    """Returns a structure of tensors that are read after the checks.

    Args:
        checks: list of the results of checks.
        values: structure of tensors and `None`.
    """
    checks = [check for check in checks if check is not None]
    if not checks:
        return values
    with tf.control_dependencies(checks):
        return tf.nest.map_structure(
            lambda value: None if value is None else tf.identity(value), values
        )
