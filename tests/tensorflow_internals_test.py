"""What breaks when TensorFlow takes away a name we lean on.

A test that fails here after an update says which function of
`keras_maml/tensorflow_internals.py` to mend, and what it is needed for.
"""

import gc
import logging
import weakref

import pytest
import tensorflow as tf
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


def test_functions_with_other_captures():
    @tf.function(autograph=False)
    def run(x):
        two = x + 1.0
        inner = tf.function(lambda y: y * two, autograph=False)
        inner = inner.get_concrete_function(tf.TensorSpec([]))
        assert [tensor is two for tensor in inner.captured_inputs] == [True]
        call = tensorflow_internals.call_with_captures
        return inner(x), call(inner, [x], [x + 9.0])

    assert [float(t) for t in run(tf.constant(1.0))] == [2.0, 10.0]


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
