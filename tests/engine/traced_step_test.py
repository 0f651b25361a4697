"""A step that is traced once is the step itself, and so are its derivatives."""

import numpy as np
import pytest
import tensorflow as tf

from keras_maml.engine.inner_loop import inner_loop
from keras_maml.engine.rematerialized_loop import RematerializedLoop
from keras_maml.engine.traced_step import TracedStep
from keras_maml.inner_optimizers import SGD


class Counted:
    """A support loss that counts how often it is traced."""

    def __init__(self):
        self.calls = 0

    def __call__(self, number, weights, state, frozen):
        self.calls += 1
        scale = 1.0 + tf.cast(number, tf.float64)
        loss = tf.reduce_sum(tf.sin(weights[0] * frozen[0] * scale))
        loss += state["mean"] * tf.reduce_sum(weights[0] ** 2)
        return loss, {**state, "mean": 0.5 * state["mean"] + 1.0}


def results(loss, form, steps=2):
    """The end of a loop, its state, and derivatives of the first two orders."""
    start = tf.constant([0.3, -0.7], tf.float64)
    frozen = tf.constant([1.1, 0.4], tf.float64)
    state = {
        "mean": tf.constant(0.2, tf.float64),
        "fixed": tf.constant(5.0, tf.float64),
    }
    sources = [start, frozen]
    with tf.GradientTape(persistent=True) as outer:
        outer.watch(sources)
        with tf.GradientTape() as inner:
            inner.watch(sources)
            adapted = inner_loop(
                loss,
                [start],
                state,
                [frozen],
                optimizer=SGD(0.1),
                steps=steps,
                second_order=True,
                form=form,
            )
            end = tf.reduce_sum(adapted.weights[0] ** 3)
        first = inner.gradient(end, sources)
        total = tf.add_n([tf.reduce_sum(d**2) for d in first])
    second = outer.gradient(total, sources)
    assert adapted.state["fixed"] is state["fixed"]
    return [*adapted.weights, adapted.state["mean"], *first, *second]


@pytest.mark.parametrize(
    "form",
    [
        "traced_once",
        pytest.param("rematerialized", marks=pytest.mark.slow),
    ],
)
def test_it_equals_steps_one_by_one(form):
    loss = Counted()
    traced = tf.function(lambda: results(loss, form), autograph=False)
    values = traced()
    for value, expected in zip(values, results(Counted(), "unrolled")):
        np.testing.assert_allclose(value, expected, rtol=1e-12)


@pytest.mark.parametrize("form", ["traced_once", "rematerialized"])
def test_a_graph_does_not_grow_with_the_steps(form):
    def trace(steps):
        loss = Counted()

        @tf.function(autograph=False)
        def derivative(start):
            with tf.GradientTape() as tape:
                tape.watch(start)
                [end] = inner_loop(
                    loss,
                    [start],
                    {"mean": tf.constant(0.2, tf.float64)},
                    [tf.constant([1.1, 0.4], tf.float64)],
                    optimizer=SGD(0.1),
                    steps=steps,
                    second_order=True,
                    form=form,
                ).weights
            return tape.gradient(end, start)

        start = tf.TensorSpec([2], tf.float64)
        graph = derivative.get_concrete_function(start).graph.as_graph_def()
        assert loss.calls == 1
        return sum(len(f.node_def) for f in graph.library.function)

    assert trace(20) == trace(2)


def test_without_a_tape_no_derivative_is_traced():
    def step(number, carry, frozen):
        (weights, state) = carry
        return (weights * 2.0, state), []

    @tf.function(autograph=False)
    def run(weights):
        carry = (weights, tf.constant(1.0))
        traced = TracedStep(step, carry, [])
        inputs = traced.inputs(carry, [])
        _, saved = traced.forward(tf.constant(0), inputs)
        assert not saved
        # TensorFlow may derive it all the same.
        _, saved = traced.derived(inputs).forward(tf.constant(0), inputs)
        return traced.derived(inputs).backward(saved, [tf.constant(1.0)])

    assert float(run(tf.constant(3.0))[0]) == 2.0


def test_a_loop_may_begin_at_a_later_step():
    def step(number, carry, frozen):
        (weights, state) = carry
        return (weights * tf.cast(number, tf.float32), state), []

    @tf.function(autograph=False)
    def run(weights):
        with tf.GradientTape() as tape:
            tape.watch(weights)
            carry = (weights, tf.constant(1.0))
            traced = TracedStep(step, carry, [])
            (end, _), _ = RematerializedLoop(traced, 2, 5).run(carry, [])
        return end, tape.gradient(end, weights)

    # 2 · 3 · 4
    assert [float(t) for t in run(tf.constant(0.5))] == [12.0, 24.0]
