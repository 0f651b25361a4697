"""How the tasks of a meta-batch are executed."""

import operator
import os

import tensorflow as tf


def configure_threads(intra_op: int = 1, inter_op: int | None = None) -> None:
    """Sets TensorFlow's CPU threads for many small tasks side by side.

    By default TensorFlow splits every operation over all cores. The operations
    of one task are too small for that: it is faster to give each core a task
    of its own. This changes the whole process, hence an explicit call.

    Args:
        intra_op: int, threads within one operation. Defaults to `1`.
        inter_op: int, operations at the same time. Defaults to the number of
            cores.

    Raises:
        RuntimeError: from TensorFlow, if it has started already. Call this
            before anything else, even before a model is made.

    Example:

    ```python
    import keras_maml

    if __name__ == "__main__":
        keras_maml.configure_threads()
    ```
    """
    tf.config.threading.set_intra_op_parallelism_threads(intra_op)
    tf.config.threading.set_inter_op_parallelism_threads(
        inter_op or os.cpu_count()
    )


def map_tasks(fn, tasks, *, parallelism):
    """Runs `fn` on every task; memory is that of `parallelism` tasks.

    What should not grow with the meta-batch (gradients above all) is summed
    as the loop goes and never stacked. Sums are taken in the order of the
    tasks, so the result does not depend on scheduling.

    Args:
        fn: function of one task, a structure of tensors without the task
            axis. Returns `(each, summed)`, two structures of tensors.
        tasks: structure of tensors of shape `(tasks, ...)`.
        parallelism: int, how many tasks may run at the same time.

    Returns:
        A tuple `(each, mean)`: the first structure stacked along a new task
        axis, and the mean over tasks of the second.
    """
    first = tf.nest.flatten(tasks)[0]
    count = tf.shape(first)[0]
    if tf.executing_eagerly():
        each, total = _python_loop(fn, tasks, int(count))
    else:
        each, total = _while_loop(fn, tasks, count, first.shape[0], parallelism)
    return each, tf.nest.map_structure(
        lambda t: tf.math.divide_no_nan(t, tf.cast(count, t.dtype)), total
    )


def _python_loop(fn, tasks, count):
    each = []
    total = None
    for i in range(count):
        task = tf.nest.map_structure(operator.itemgetter(i), tasks)
        one_each, one = fn(task)
        each.append(one_each)
        total = one if i == 0 else tf.nest.map_structure(tf.add, total, one)
    return tf.nest.map_structure(lambda *t: tf.stack(t), *each), total


def _while_loop(fn, tasks, count, static_count, parallelism):
    # Traced once, as a function of its own, so that the shapes and dtypes of
    # the results are known before the loop that accumulates them is built.
    task_spec = tf.nest.map_structure(
        lambda t: tf.TensorSpec(t.shape[1:], t.dtype), tasks
    )
    fn = tf.function(fn, autograph=False).get_concrete_function(task_spec)
    each_spec, total_spec = tf.nest.map_structure(
        lambda t: tf.TensorSpec(t.shape, t.dtype), fn.structured_outputs
    )
    flat_tasks = tf.nest.flatten(tasks)

    def body(i, arrays, total):
        task = tf.nest.pack_sequence_as(tasks, [t[i] for t in flat_tasks])
        each, one = fn(task)
        arrays = [
            array.write(i, value)
            for array, value in zip(arrays, tf.nest.flatten(each))
        ]
        total = [a + b for a, b in zip(total, tf.nest.flatten(one))]
        return i + 1, arrays, total

    _, arrays, total = tf.while_loop(
        lambda i, arrays, total: i < count,
        body,
        (
            tf.constant(0),
            [
                tf.TensorArray(s.dtype, size=count, element_shape=s.shape)
                for s in tf.nest.flatten(each_spec)
            ],
            [tf.zeros(s.shape, s.dtype) for s in tf.nest.flatten(total_spec)],
        ),
        parallel_iterations=parallelism,
        maximum_iterations=static_count,
    )
    stacked = [array.stack() for array in arrays]
    for tensor, spec in zip(stacked, tf.nest.flatten(each_spec)):
        tensor.set_shape([static_count, *spec.shape])
    return (
        tf.nest.pack_sequence_as(each_spec, stacked),
        tf.nest.pack_sequence_as(total_spec, total),
    )
