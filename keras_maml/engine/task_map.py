"""Runs the tasks of a meta-batch."""

import operator

import tensorflow as tf

from keras_maml import devices
from keras_maml import tensorflow_internals
from keras_maml.engine import task_memory
from keras_maml.engine.packing import Packing
from keras_maml.engine.processors import available_processors
from keras_maml.exact import task_axis

FORMS = ("loop", "vectorized", "compiled")
MODES = ("auto", *FORMS)


class VectorizationError(ValueError):
    """Raised for what cannot be vectorized over tasks, or compiled."""


# Limits for the tasks in a chunk: smaller chunks are slow, larger chunks need
# more memory.
_MIN_CHUNK = 4
_MAX_CHUNK = 32

# The letters of a reason why an operation cannot be vectorized.
_MAX_REASON = 120


def map_tasks(
    fn,
    tasks,
    *,
    parallelism,
    form="loop",
    jit_compile=True,
    finish=lambda total: total,
):
    """Runs `fn` on every task. Memory does not grow with the number of tasks.

    Up to `parallelism` tasks, or chunks of tasks, use memory at the same time.
    The loop stacks the first result of `fn`, and sums the second result, such
    as gradients. It adds in a fixed order, so scheduling does not change the
    result.

    Args:
        fn: function of one task, a structure of tensors without the task
            axis. It returns `(each, summed)`, two structures of tensors.
        tasks: structure of tensors of shape `(tasks, ...)`.
        parallelism: int, the number of tasks that may run at the same time.
            `None` means as many as there are processors or, vectorized on a
            GPU or TPU, as fit its memory.
        form: string, one of `FORMS`. With `"vectorized"` and `"compiled"`, a
            chunk of tasks is one program: with an operation for all tasks, or
            with a loop over them. Then `parallelism` chunks may run at the
            same time, and the number of tasks must be known. Vectorized on a
            GPU or TPU, chunks have `parallelism` tasks, and run one after the
            other. Has no effect in eager execution.
        jit_compile: bool. Whether XLA compiles the chunks.
        finish: function of the sum of the second results, of all tasks or of
            a chunk, within the program of the chunk. Its results are summed
            over the chunks.

    Returns:
        A tuple `(each, total)`: the first results stacked along a new task
        axis, and what `finish` makes of the sum over tasks of the second
        results.

    Raises:
        VectorizationError: if `fn` has an operation that cannot be
            vectorized or compiled, or if the number of tasks is unknown.
    """
    if not tf.executing_eagerly() and form != "loop":
        return _chunks(fn, tasks, parallelism, form, jit_compile, finish)
    parallelism = parallelism or available_processors()
    if tf.executing_eagerly():
        each, total = _unrolled(fn, tasks, len(tf.nest.flatten(tasks)[0]))
    else:
        each, total = _while_loop(_as_function(fn), tasks, parallelism)
    return each, finish(total)


def _as_function(fn):
    # A function that has been traced is not traced again.
    if isinstance(fn, tf.types.experimental.PolymorphicFunction):
        return fn
    return tf.function(fn, autograph=False)


def _unrolled(fn, tasks, count):
    if not count:
        raise ValueError(
            "Eager execution needs a task on each replica. Compile the model "
            "with `run_eagerly=False`, or batch the tasks with "
            "`drop_remainder=True`. Received: a meta-batch of 0 tasks"
        )
    results = []
    total = None
    for i in range(count):
        task = tf.nest.map_structure(operator.itemgetter(i), tasks)
        each, summed = fn(task)
        results.append(each)
        total = (
            summed if i == 0 else tf.nest.map_structure(tf.add, total, summed)
        )
    return tf.nest.map_structure(lambda *t: tf.stack(t), *results), total


def _chunks(fn, tasks, parallelism, form, jit_compile, finish):
    """Runs chunks of tasks, each chunk as one program."""
    count = tf.nest.flatten(tasks)[0].shape[0]
    if not count:
        raise VectorizationError(
            f'`task_map="{form}"` needs a known number of tasks. Batch them '
            "with `drop_remainder=True`. Received: x of shape "
            f"{tf.nest.flatten(tasks)[0].shape}"
        )
    # All chunks have one size, so that one program serves all of them. Copies
    # of the last task, which do not count, fill the last chunk.
    if form == "vectorized" and devices.accelerators():
        fn = _traced(fn, tasks)
        size = parallelism or task_memory.tasks_that_fit(
            fn.graph, devices.accelerators()[0]
        )
        chunks, parallelism = -(-count // size), 1
        size = -(-count // chunks)
    else:
        parallelism = parallelism or available_processors()
        chunks, size = _chunk_sizes(count, parallelism)
    padded_count = chunks * size
    index = [min(i, count - 1) for i in range(padded_count)]

    def split(tensor):
        if padded_count != count:
            tensor = tf.gather(tensor, index)
        shape = tf.concat([[chunks, size], tf.shape(tensor)[1:]], 0)
        parts = tf.reshape(tensor, shape)
        return tf.ensure_shape(parts, [chunks, size, *tensor.shape[1:]])

    def join(tensor):
        shape = tf.concat([[padded_count], tf.shape(tensor)[2:]], 0)
        joined = tf.reshape(tensor, shape)[:count]
        return tf.ensure_shape(joined, [count, *tensor.shape[2:]])

    counts = tf.reshape(tf.range(padded_count) < count, [chunks, size])
    parts = {"tasks": tf.nest.map_structure(split, tasks), "counts": counts}
    if form == "vectorized":
        run_tasks = _vectorized(fn, jit_compile)
    else:
        run_tasks = _compiled(fn)
    run = _chunk_program(run_tasks, parts, form, jit_compile, finish)
    if chunks <= parallelism:
        # All chunks run at the same time, so no loop limits them.
        each, total = _unrolled(run, parts, chunks)
    else:
        each, total = _while_loop(run, parts, parallelism)
    return tf.nest.map_structure(join, each), total


def _traced(fn, tasks):
    """Returns `fn`, traced for a task that will get a task axis."""
    spec = tf.nest.map_structure(
        lambda t: tf.TensorSpec(t.shape[1:], t.dtype), tasks
    )
    with task_axis.vectorized():
        return tf.function(fn, autograph=False).get_concrete_function(spec)


def _vectorized(fn, jit_compile):
    """Returns a function that runs `fn` once, for all tasks of a chunk."""

    def run(chunk):
        is_traced = False
        list_loop = None

        def run_task(task):
            nonlocal is_traced, list_loop
            with task_axis.vectorized():
                results = fn(task)
            is_traced = True
            here = tf.compat.v1.get_default_graph()
            list_loop = _list_loop(getattr(fn, "graph", here))
            if list_loop is not None and jit_compile:
                raise ValueError("XLA cannot compile a vectorized list.")
            return results

        with tensorflow_internals.VectorizationLog() as log:
            try:
                each, summed = tf.vectorized_map(
                    run_task, chunk["tasks"], fallback_to_while_loop=False
                )
            except Exception as error:
                if not is_traced:
                    raise
                operation = list_loop or log.operation(error)
                reason = _reason(operation, error)
                raise _unvectorized("vectorized", reason) from error
        total = tf.nest.map_structure(
            lambda t: _sum_of_counted(t, chunk["counts"]), summed
        )
        return each, total

    return run


def _compiled(fn):
    """Returns a function that runs `fn` on a chunk's tasks, one by one."""

    def run(chunk):
        # The copies come last, and are left out.
        count = tf.reduce_sum(tf.cast(chunk["counts"], tf.int32))
        return _while_loop(_as_function(fn), chunk["tasks"], 1, count)

    return run


def _chunk_program(run_tasks, parts, form, jit_compile, finish):
    """Returns a function that runs all tasks of a chunk as one program."""

    def run(chunk):
        each, total = run_tasks(chunk)
        return each, finish(total)

    program = tf.function(run, autograph=False, jit_compile=jit_compile)
    if jit_compile:
        # XLA would not raise before it compiles, in the first step.
        spec = tf.nest.map_structure(
            lambda t: tf.TensorSpec(t.shape[1:], t.dtype), parts
        )
        operations = tensorflow_internals.operations_without_xla(
            program.get_concrete_function(spec)
        )
        if operations:
            raise _unvectorized(form, f"XLA has no kernel for {operations}")
    return program


def _list_loop(graph):
    """Returns the type and name of a loop over lists, or `None`.

    Recurrent layers have such loops. Once one is vectorized, XLA cannot
    compile it, and would say so only in the first step.
    """
    for operation in graph.get_operations():
        if operation.type in ("While", "StatelessWhile") and any(
            tensor.dtype == tf.variant for tensor in operation.inputs
        ):
            return operation.type, operation.name.removeprefix("loop_body/")
    return None


def _reason(operation, error):
    """Returns a line about an error, which may hold a part of the graph."""
    if operation is None:
        return " ".join(str(error).split())[:_MAX_REASON]
    op_type, place = operation
    return f"operation {op_type} in {place[:_MAX_REASON]!r}"


def _unvectorized(form, reason):
    return VectorizationError(
        f"The learner or a loss has an operation that cannot be {form} over "
        'tasks. Use `task_map="loop"`. '
        f'Received: task_map="{form}", which failed with: {reason}'
    )


def _sum_of_counted(tensor, counts):
    """Returns the sum over a chunk's tasks, without the copies."""
    weights = tf.cast(counts, tensor.dtype)
    weights = tf.reshape(weights, [-1] + [1] * (tensor.shape.rank - 1))
    return tf.reduce_sum(tensor * weights, 0)


def _chunk_sizes(count, parallelism):
    """Returns the number of chunks, and the number of tasks in each chunk."""
    chunks = max(
        min(parallelism, -(-count // _MIN_CHUNK)), -(-count // _MAX_CHUNK)
    )
    return chunks, -(-count // chunks)


def _while_loop(fn, tasks, parallelism, limit=None):
    """Runs `fn` on the tasks, or on the first `limit` of them."""
    # The loop needs the shapes and dtypes of the results before it is built.
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
    if limit is None:
        limit = count

    packing = Packing(tf.nest.flatten(total_spec))

    def body(i, arrays, total):
        task = tf.nest.pack_sequence_as(tasks, [t[i] for t in flat_tasks])
        each, summed = fn(task)
        arrays = [
            array.write(i, value)
            for array, value in zip(arrays, tf.nest.flatten(each))
        ]
        parts = packing.pack(tf.nest.flatten(summed))
        total = [a + b for a, b in zip(total, parts)]
        return i + 1, arrays, total

    _, arrays, total = tf.while_loop(
        lambda i, arrays, total: i < limit,
        body,
        (
            tf.constant(0),
            [
                tf.TensorArray(
                    s.dtype,
                    # XLA must know it.
                    size=static_count or count,
                    element_shape=s.shape,
                )
                for s in tf.nest.flatten(each_spec)
            ],
            packing.zeros(),
        ),
        parallel_iterations=parallelism,
        maximum_iterations=static_count,
    )
    stacked = [
        _stack(array, spec, count, static_count)
        for array, spec in zip(arrays, tf.nest.flatten(each_spec))
    ]
    return (
        tf.nest.pack_sequence_as(each_spec, stacked),
        tf.nest.pack_sequence_as(total_spec, packing.unpack(total)),
    )


def _stack(array, spec, count, static_count):
    """Stacks the results of tasks, of which a replica may have none."""
    if static_count or spec.shape.is_fully_defined():
        stacked = array.stack()
    else:
        # TensorFlow stacks no results only if it knows their shape. A
        # dimension of 1 fits what the targets have in its place.
        empty = tf.zeros([0, *(size or 1 for size in spec.shape)], spec.dtype)
        stacked = tf.cond(count > 0, array.stack, lambda: empty)
    stacked.set_shape([static_count, *spec.shape])
    return stacked
