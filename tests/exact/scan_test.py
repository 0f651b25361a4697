"""The loop whose derivatives are loops, against unrolled steps."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_maml.exact import lowering
from keras_maml.exact import task_axis
from keras_maml.exact.scan import scan


def arguments(steps=3):
    rng = np.random.default_rng(0)
    shapes = (3, 3), (steps, 2, 3), (2, 3)
    return [tf.constant(0.5 * rng.standard_normal(shape)) for shape in shapes]


def step(weight, state, x, keep):
    new_state = tf.where(keep, state, tf.tanh(state @ weight + x))
    return new_state, state * x @ weight


KEEP = tf.constant([False, True, False])


def by_scan(weight, xs, state):
    def flat_step(carry, row):
        new_state, output = step(weight, carry[0], *row)
        return [new_state], [output]

    (state,), (outputs,) = scan(flat_step, [state], [xs, KEEP])
    return tf.reduce_sum(tf.sin(state)) + tf.reduce_sum(tf.cos(outputs))


def unrolled(weight, xs, state):
    outputs = []
    for x, keep in zip(tf.unstack(xs), KEEP):
        state, output = step(weight, state, x, keep)
        outputs.append(output)
    outputs = tf.stack(outputs)
    return tf.reduce_sum(tf.sin(state)) + tf.reduce_sum(tf.cos(outputs))


def derivatives(function, tensors, order):
    """The derivatives of each order, each of a scalar of those before."""
    if order == 0:
        value = function(*tensors)
        return [[value]]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        below = derivatives(function, tensors, order - 1)
        scalar = tf.add_n([tf.reduce_sum(tf.sin(t)) for t in below[-1]])
    return [*below, tape.gradient(scalar, tensors)]


@pytest.mark.parametrize("order", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_every_derivative_is_that_of_unrolled_steps(order):
    actual = tf.function(derivatives, autograph=False)(
        by_scan, arguments(), order
    )
    expected = derivatives(unrolled, arguments(), order)
    for a, e in zip(tf.nest.flatten(actual), tf.nest.flatten(expected)):
        np.testing.assert_allclose(a, e, rtol=1e-10, atol=1e-11)


def test_each_task_may_have_its_own_weights():
    weight, xs, state = arguments()
    weights = tf.stack([weight, 0.5 * weight])

    def gradient(function, weight):
        with tf.GradientTape() as tape:
            tape.watch(weight)
            loss = function(weight, xs, state)
        return tape.gradient(loss, weight)

    @tf.function(jit_compile=True, autograph=False)
    def vectorized(weights):
        return tf.vectorized_map(
            lambda weight: gradient(by_scan, weight),
            weights,
            fallback_to_while_loop=False,
        )

    for actual, weight in zip(vectorized(weights), weights):
        expected = gradient(unrolled, weight)
        np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"return_sequences": True, "go_backwards": True, "masked": True},
        {"masked": True, "return_state": True},
        {
            "masked": True,
            "return_sequences": True,
            "zero_output_for_mask": True,
        },
        {"unroll": True},
    ],
)
def test_a_recurrent_layer_computes_what_it_computes_in_keras(settings):
    settings = dict(settings)
    rng = np.random.default_rng(0)
    xs = rng.standard_normal((2, 3, 4)).astype("float32")
    mask = None
    if settings.pop("masked", False):
        mask = tf.constant([[True, False, True], [False, True, True]])
    layer = keras.layers.RNN(
        [keras.layers.SimpleRNNCell(3), keras.layers.GRUCell(2)], **settings
    )
    expected = layer(xs, mask=mask)

    @tf.function(autograph=False)
    def in_form_for_a_task_axis():
        with lowering.exact_ops(), task_axis.vectorized():
            return layer(xs, mask=mask)

    actual = in_form_for_a_task_axis()
    tf.nest.assert_same_structure(actual, expected)
    for a, e in zip(tf.nest.flatten(actual), tf.nest.flatten(expected)):
        np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-6)
