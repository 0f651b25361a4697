"""What breaks when TensorFlow takes away a name we lean on.

A test that fails here after an update says which function of
`keras_maml/tensorflow_internals.py` to mend, and what it is needed for.
"""

import contextlib
import gc
import logging
import weakref

import pytest
import tensorflow as tf
from tensorflow.python.eager import context
from tensorflow.python.framework.ops import gradient_registry

from keras_maml import tensorflow_internals


def map_vectorized(function, values):
    return tf.function(
        lambda: tf.vectorized_map(
            function, values, fallback_to_while_loop=False
        )
    )()


@pytest.mark.parametrize(
    ("function", "operation"),
    [
        # TensorFlow has no converter.
        (
            lambda seed: tf.random.stateless_uniform([2], tf.stack([seed, 1])),
            "StatelessRandomGetKeyCounter",
        ),
        # A converter refuses, and TensorFlow logs it.
        (
            lambda value: tf.nn.conv1d(
                tf.ones([1, 3, 1]),
                tf.fill([1, 1, 1], tf.cast(value, tf.float32)),
                1,
                "SAME",
            ),
            "Conv2D",
        ),
    ],
)
def test_what_tensorflow_says_when_it_cannot_vectorize(
    function, operation, caplog
):
    with (
        tensorflow_internals.VectorizationLog() as log,
        pytest.raises(ValueError, match=".") as caught,
    ):
        map_vectorized(function, tf.range(3))
    op_type, place = log.operation(caught.value)
    assert op_type == operation
    assert place
    assert "pfor" not in caplog.text


def test_other_words_in_the_log_stay():
    seen = []

    class Handler(logging.Handler):
        def emit(self, record):
            seen.append(record.getMessage())

    handler = Handler()
    tf.get_logger().addHandler(handler)
    with tensorflow_internals.VectorizationLog() as log:
        tf.get_logger().error("other words")
    tf.get_logger().removeHandler(handler)
    assert seen == ["other words"]
    assert not log.text
    assert log.operation(ValueError("no graph")) is None


def test_operations_without_a_kernel_of_xla():
    def function(fn):
        return tf.function(fn).get_concrete_function(tf.TensorSpec([3, 3]))

    found = tensorflow_internals.operations_without_xla
    assert found(function(tf.math.special.dawsn)) == ["Dawsn"]
    nested = tf.function(lambda x: tf.math.special.bessel_j0(x) + 1.0)
    assert found(function(lambda x: nested(x) * 2.0)) == ["BesselJ0"]
    assert found(function(lambda x: tf.nn.relu(x @ x))) == []

    def stitched(x):
        rows = tf.cast(x[0], tf.int32)
        return tf.dynamic_stitch([rows], [x])

    # XLA knows indices that are constants, or made from shapes.
    assert found(function(stitched)) == ["DynamicStitch"]
    assert (
        found(
            function(
                lambda x: tf.dynamic_stitch([tf.range(tf.shape(x)[0])], [x])
            )
        )
        == []
    )


def test_only_changes_wait_for_a_check():
    """Without the edges, a step would change θ before it fails."""
    changed, kept = tf.Variable(1.0), tf.Variable(1.0)

    @tf.function(autograph=False)
    def step(is_good):
        check = tf.debugging.Assert(is_good, ["bad"])
        with tf.control_dependencies([check]):
            check = tf.identity(is_good)
        with tensorflow_internals.changes_after(check):
            value = kept * 2.0
            changed.assign_add(value)
            tf.cond(value > 1.0, lambda: kept.assign(value), lambda: kept)
        for operation in value.op.graph.get_operations():
            if operation.type in ("AssignAddVariableOp", "If"):
                assert check.op in operation.control_inputs
        assert check.op not in value.op.control_inputs
        return value

    with pytest.raises(tf.errors.InvalidArgumentError):
        step(tf.constant(False))
    assert float(changed) == float(kept) == 1.0
    step(tf.constant(True))
    assert float(changed) == 3.0
    assert float(kept) == 2.0


@tensorflow_internals.custom_gradient
def doubled(x):
    return x + x, lambda d: 2 * d


def graph_and_gradients():
    """Traces a function within a loop; returns its graph and registrations."""
    before = set(gradient_registry.list())

    @tf.function(autograph=False)
    def run(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.while_loop(
                lambda i, _: i < 2, lambda i, y: (i + 1, doubled(y)), [0, x]
            )[1]
        return tape.gradient(y, x)

    assert float(run(tf.constant(3.0))) == 4.0
    new = set(gradient_registry.list()) - before
    graph = run.get_concrete_function(tf.constant(3.0)).graph
    return weakref.ref(graph), new


def test_a_custom_gradient_is_freed_with_its_graph():
    """Else each trace stays: 2 MiB for each call of `evaluate_tasks`."""
    graph, new = graph_and_gradients()
    assert new
    gc.collect()
    assert graph() is None
    assert not new & set(gradient_registry.list())


def test_a_custom_gradient_outlives_the_graph_around_it():
    """A function that is traced once may be called in two others."""
    inner = tf.function(doubled, autograph=False)

    def derivative():
        @tf.function(autograph=False)
        def run(x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = inner(x)
            return tape.gradient(y, x)

        return float(run(tf.constant(3.0)))

    assert derivative() == 2.0
    gc.collect()
    assert derivative() == 2.0


def test_a_custom_gradient_makes_few_operations():
    """TensorFlow's own makes a copy and zeros for each argument."""
    product = tensorflow_internals.custom_gradient(
        lambda x, y: (x * y, lambda d: (d * y, d * x))
    )

    def derivative(x, y):
        with tf.GradientTape() as tape:
            tape.watch([x, y])
            z = product(x, y)
        return tape.gradient(z, [x, y])

    spec = tf.TensorSpec([3])
    graph = tf.function(derivative).get_concrete_function(spec, spec).graph
    types = [op.type for op in graph.get_operations()]
    assert types.count("Mul") == 3
    assert types.count("IdentityN") == 1
    assert len(types) <= 10


def test_what_a_tape_watches():
    x = tf.constant(1.0)
    assert not tensorflow_internals.is_watched([x])
    with tf.GradientTape() as tape:
        assert not tensorflow_internals.is_watched([x])
        tape.watch(x)
        assert tensorflow_internals.is_watched([tf.constant(2.0), x])
    assert not tensorflow_internals.is_watched([x])


def test_tensors_of_another_graph():
    @tf.function(autograph=False)
    def outer(x):
        @tf.function(autograph=False)
        def inner():
            here = tf.compat.v1.get_default_graph()
            fetched = tensorflow_internals.fetched(x, here)
            assert fetched.graph is here
            # One placeholder for all uses, and no operation for each.
            assert tensorflow_internals.fetched(x, here) is fetched
            return fetched + 1.0

        return inner()

    assert float(outer(tf.constant(2.0))) == 3.0


def test_tensorflow_itself_keeps_custom_gradients():
    """If this fails, ours can go."""
    plain = tf.custom_gradient(lambda x: (x + x, lambda d: 2 * d))

    def run():
        before = set(gradient_registry.list())
        tf.function(plain, autograph=False)(tf.constant(3.0))
        return set(gradient_registry.list()) - before

    new = run()
    gc.collect()
    assert new
    assert new <= set(gradient_registry.list())


def test_a_concrete_function_is_called_with_other_captured_tensors():
    weight, other = tf.constant(2.0), tf.constant(3.0)
    function = tf.function(lambda x: (weight * x,)).get_concrete_function(
        tf.TensorSpec([])
    )
    with tf.GradientTape() as tape:
        tape.watch([weight, other])
        (y,) = tensorflow_internals.call_with_captured(
            function, [tf.constant(5.0)], [other]
        )
    assert float(y) == 15.0
    gradients = tape.gradient(y, [weight, other])
    assert gradients[0] is None
    assert float(gradients[1]) == 5.0


def test_no_tape_records_where_recording_stops():
    x = tf.constant(3.0)
    with tf.GradientTape() as tape:
        tape.watch(x)
        with tensorflow_internals.stop_recording():
            y = x * x
        z = x * y
    assert float(tape.gradient(z, x)) == 9.0


def test_tensorflow_derives_a_loop_under_two_tapes_where_it_is_built():
    """If this fails, `stop_recording` can go from `exact.scan`."""

    def loops_over_lists(context):
        @tf.function(autograph=False)
        def run(x):
            with tf.GradientTape() as outer:
                outer.watch(x)
                with tf.GradientTape() as inner:
                    inner.watch(x)
                    with context():
                        tf.while_loop(
                            lambda i, _: i < 2,
                            lambda i, y: (i + 1, tf.sin(y)),
                            [0, x],
                        )
            return x

        graph = run.get_concrete_function(tf.constant(3.0)).graph
        functions = graph.as_graph_def().library.function
        return any("TensorList" in str(f.node_def) for f in functions)

    assert loops_over_lists(contextlib.nullcontext)
    assert not loops_over_lists(tensorflow_internals.stop_recording)


def test_the_memory_of_a_device_is_known():
    device = tf.config.list_logical_devices()[0]
    # TensorFlow says so of every CPU.
    assert tensorflow_internals.memory_limit(device) == 256 * 2**20
    other = tf.config.LogicalDevice("/device:GPU:7", "GPU")
    assert tensorflow_internals.memory_limit(other) is None


def test_the_graphs_that_an_operation_calls():
    @tf.function(autograph=False)
    def run(x):
        return tf.while_loop(lambda x: x < 9.0, lambda x: (tf.sin(x),), [x])

    graph = run.get_concrete_function(tf.constant(1.0)).graph
    (loop,) = [op for op in graph.get_operations() if "While" in op.type]
    inside = [
        {op.type for op in called.get_operations()}
        for called in tensorflow_internals.called_graphs(loop)
    ]
    assert any("Sin" in types for types in inside)
    assert any("Less" in types for types in inside)


def operations_that_run(function):
    """The types of the operations that TensorFlow's passes leave."""
    context.enable_run_metadata()
    try:
        function()
        metadata = context.export_run_metadata()
    finally:
        context.disable_run_metadata()
    return {n.op for graph in metadata.partition_graphs for n in graph.node}


def constant_function():
    return tf.function(lambda: tf.exp(tf.constant([1.0, 2.0])))


def test_few_graph_passes_fold_no_constants():
    assert "Exp" not in operations_that_run(constant_function())
    with tensorflow_internals.few_graph_passes():
        assert "Exp" in operations_that_run(constant_function())
    assert "Exp" not in operations_that_run(constant_function())


def test_few_graph_passes_inline_functions():
    @tf.function
    def inner(x):
        return tf.exp(x)

    function = tf.function(lambda: inner(tf.constant(1.0)) + 1.0)
    with tensorflow_internals.few_graph_passes():
        assert "PartitionedCall" not in operations_that_run(function)


def test_few_graph_passes_end_with_the_block():
    before = context.context().function_call_options
    with (
        pytest.raises(KeyError),
        tensorflow_internals.few_graph_passes(),
    ):
        # Changes the options of the thread in place, and restores a copy.
        with tf.experimental.function_executor_type("SINGLE_THREADED_EXECUTOR"):
            raise KeyError
    after = context.context().function_call_options
    assert after.as_attrs() == before.as_attrs()
    with tensorflow_internals.few_graph_passes():
        assert not context.context().function_call_options.executor_type


def test_few_graph_passes_leave_what_the_user_set():
    try:
        with tensorflow_internals.few_graph_passes():
            tf.config.optimizer.set_experimental_options({"remapping": False})
        with tensorflow_internals.few_graph_passes():
            assert "Exp" not in operations_that_run(constant_function())
    finally:
        context.context()._optimizer_experimental_options.clear()
        # Forgets the options that were made of these.
        tf.config.optimizer.set_experimental_options({})
