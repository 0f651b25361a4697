"""How the tasks of a meta-batch are executed."""

import operator

import keras
import tensorflow as tf
from keras import layers

from keras_maml import keras_internals
from keras_maml.engine.processors import available_processors

MODES = ("auto", "loop", "vectorized")


def configure_threads(intra_op: int = 1, inter_op: int | None = None) -> None:
    """Sets TensorFlow's CPU threads for many small tasks side by side.

    By default TensorFlow splits every operation over all cores. The operations
    of one task are too small for that: it is faster to give each core a task
    of its own. This changes the whole process, hence an explicit call.

    Args:
        intra_op: int, threads within one operation. Defaults to `1`.
        inter_op: int, operations at the same time. Defaults to the number of
            processors that this process may use.

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
        inter_op or available_processors()
    )


class VectorizationError(ValueError):
    """An operation that cannot be computed for all tasks as one."""


def vectorizes(learner):
    """Whether all tasks of `learner` are better computed as one.

    One program pays where a task's operations are so small that calling them
    costs more than what they do: few weights, in dense layers and others as
    light. Convolutions with a kernel for each task would not become one
    operation.
    """
    return _is_light(learner) and learner.count_params() <= _MAX_WEIGHTS


def _is_light(learner):
    # Subclasses, whose `call` may do anything, are none of these.
    if type(learner) is keras.Sequential:
        return all(_is_light(layer) for layer in learner.layers)
    if isinstance(learner, keras.Function) and isinstance(learner, keras.Model):
        functional = type(learner).__module__.partition(".")[0] == "keras"
        return functional and all(_is_light(op) for op in learner.operations)
    return type(learner) in _VECTORIZED_LAYERS


_VECTORIZED_LAYERS = frozenset(
    {
        layers.InputLayer,
        layers.Dense,
        layers.Flatten,
        layers.Reshape,
        layers.Activation,
        layers.ReLU,
        layers.LeakyReLU,
        layers.ELU,
        layers.Softmax,
        layers.LayerNormalization,
        layers.Rescaling,
        layers.Add,
        layers.Subtract,
        layers.Multiply,
        layers.Average,
        layers.Concatenate,
    }
)

# Above it, the work of a task outweighs the calls.
_MAX_WEIGHTS = 1_000_000

# Tasks that are computed as one: enough for the work to outweigh the calls,
# and so few that memory does not grow with the meta-batch.
_MIN_CHUNK = 4
_MAX_CHUNK = 32


def map_tasks(fn, tasks, *, parallelism, vectorize=False, jit_compile=True):
    """Runs `fn` on every task; memory does not grow with their number.

    `parallelism` tasks, or chunks of tasks, need memory at the same time. What
    should not grow with the meta-batch (gradients above all) is summed as the
    loop goes and never stacked. Sums are taken in a fixed order, so the result
    does not depend on scheduling.

    Args:
        fn: function of one task, a structure of tensors without the task
            axis. Returns `(each, summed)`, two structures of tensors.
        tasks: structure of tensors of shape `(tasks, ...)`.
        parallelism: int, how many tasks may run at the same time.
        vectorize: bool. Whether the tasks of a chunk are computed as one;
            `parallelism` chunks may then run at the same time. The number of
            tasks must be known. Without effect in eager execution.
        jit_compile: bool. Whether XLA compiles the chunks.

    Returns:
        A tuple `(each, mean)`: the first structure stacked along a new task
        axis, and the mean over tasks of the second.

    Raises:
        VectorizationError: if `fn` holds an operation that cannot be
            vectorized or compiled, or the number of tasks is unknown.
    """
    first = tf.nest.flatten(tasks)[0]
    count = tf.shape(first)[0]
    if tf.executing_eagerly():
        each, total = _unrolled(fn, tasks, int(count))
    elif vectorize:
        each, total = _chunks(fn, tasks, parallelism, jit_compile)
    else:
        each, total = _while_loop(
            tf.function(fn, autograph=False), tasks, parallelism
        )
    return each, tf.nest.map_structure(
        lambda t: tf.math.divide_no_nan(t, tf.cast(count, t.dtype)), total
    )


def _unrolled(fn, tasks, count):
    each = []
    total = None
    for i in range(count):
        task = tf.nest.map_structure(operator.itemgetter(i), tasks)
        one_each, one = fn(task)
        each.append(one_each)
        total = one if i == 0 else tf.nest.map_structure(tf.add, total, one)
    return tf.nest.map_structure(lambda *t: tf.stack(t), *each), total


def _chunks(fn, tasks, parallelism, jit_compile):
    """A loop over chunks of tasks, each of them one vectorized program."""
    count = tf.nest.flatten(tasks)[0].shape[0]
    if not count:
        raise VectorizationError(
            '`task_map="vectorized"` needs a known number of tasks. Batch them '
            "with `drop_remainder=True`. Received: a meta-batch of shape "
            f"{tf.nest.flatten(tasks)[0].shape}"
        )
    # Equal chunks: one program serves them all. The last one is filled up
    # with copies of the last task, which do not count.
    chunks, size = _chunk_sizes(count, parallelism)
    filled = chunks * size
    index = [min(i, count - 1) for i in range(filled)]

    def split(tensor):
        if filled != count:
            tensor = tf.gather(tensor, index)
        shape = tf.concat([[chunks, size], tf.shape(tensor)[1:]], 0)
        parts = tf.reshape(tensor, shape)
        return tf.ensure_shape(parts, [chunks, size, *tensor.shape[1:]])

    def join(tensor):
        shape = tf.concat([[filled], tf.shape(tensor)[2:]], 0)
        joined = tf.reshape(tensor, shape)[:count]
        return tf.ensure_shape(joined, [count, *tensor.shape[2:]])

    counts = tf.reshape(tf.range(filled) < count, [chunks, size])
    parts = {"tasks": tf.nest.map_structure(split, tasks), "counts": counts}
    run = _chunk_program(fn, parts, jit_compile)
    if chunks <= parallelism:
        # All at once, without the loop.
        each, total = _unrolled(run, parts, chunks)
    else:
        each, total = _while_loop(run, parts, parallelism)
    return tf.nest.map_structure(join, each), total


def _chunk_program(fn, parts, jit_compile):
    """A function of one chunk: `fn` for all its tasks as one."""

    def run(chunk):
        try:
            each, summed = tf.vectorized_map(
                fn, chunk["tasks"], fallback_to_while_loop=False
            )
        except Exception as error:
            if keras_internals.is_vectorization_error(error):
                raise _unvectorized(error) from error
            raise
        return each, tf.nest.map_structure(
            lambda t: _sum_of_counted(t, chunk["counts"]), summed
        )

    program = tf.function(run, autograph=False, jit_compile=jit_compile)
    if jit_compile:
        # XLA would say so only when it compiles, in the first step.
        spec = tf.nest.map_structure(
            lambda t: tf.TensorSpec(t.shape[1:], t.dtype), parts
        )
        missing = keras_internals.operations_without_xla(
            program.get_concrete_function(spec)
        )
        if missing:
            raise _unvectorized(f"XLA has no kernel for {missing}")
    return program


def _unvectorized(reason):
    return VectorizationError(
        "The learner or a loss has an operation that cannot be vectorized "
        'over tasks. Use `task_map="loop"`. '
        f'Received: task_map="vectorized", which failed with: {reason}'
    )


def _sum_of_counted(tensor, counts):
    """The sum over a chunk's tasks, without the copies that fill it up."""
    ones = tf.cast(counts, tensor.dtype)
    ones = tf.reshape(ones, [-1] + [1] * (tensor.shape.rank - 1))
    return tf.reduce_sum(tensor * ones, 0)


def _chunk_sizes(count, parallelism):
    """How many chunks, and how many tasks in each."""
    chunks = max(
        min(parallelism, -(-count // _MIN_CHUNK)), -(-count // _MAX_CHUNK)
    )
    return chunks, -(-count // chunks)


def _while_loop(fn, tasks, parallelism):
    # Traced once, as a function of its own, so that the shapes and dtypes of
    # the results are known before the loop that accumulates them is built.
    task_spec = tf.nest.map_structure(
        lambda t: tf.TensorSpec(t.shape[1:], t.dtype), tasks
    )
    fn = fn.get_concrete_function(task_spec)
    each_spec, total_spec = tf.nest.map_structure(
        lambda t: tf.TensorSpec(t.shape, t.dtype), fn.structured_outputs
    )
    flat_tasks = tf.nest.flatten(tasks)
    count = tf.shape(flat_tasks[0])[0]
    static_count = flat_tasks[0].shape[0]

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
