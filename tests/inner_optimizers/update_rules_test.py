"""The update rules: the steps of Keras's optimizers, and their derivatives."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_maml
from keras_maml import inner_optimizers
from keras_maml.inner_optimizers import gradient_rule
from tests import oracle
from tests.sample_models import regression_batch
from tests.sample_models import small_mlp

# Numbers that float32 holds exactly: Keras keeps some of them in it.
SCHEDULE = keras.optimizers.schedules.PiecewiseConstantDecay(
    [2, 5], [0.5, 0.25, 0.125]
)
RATE = {"learning_rate": 0.125}
BETAS = {"beta_1": 0.875, "beta_2": 0.96875}
CASES = {
    "sgd": ("SGD", RATE),
    "momentum": ("SGD", {**RATE, "momentum": 0.875}),
    "nesterov": ("SGD", {**RATE, "momentum": 0.875, "nesterov": True}),
    "adam": ("Adam", {**RATE, **BETAS}),
    "reptile's adam": ("Adam", {**RATE, **BETAS, "beta_1": 0.0}),
    "adamw": ("AdamW", {**RATE, **BETAS, "weight_decay": 0.25}),
    "rmsprop": ("RMSprop", {**RATE, "rho": 0.875}),
    "centered": (
        "RMSprop",
        {**RATE, "rho": 0.875, "centered": True, "momentum": 0.5},
    ),
    "adagrad": ("Adagrad", {**RATE, "initial_accumulator_value": 0.25}),
    "schedule": ("SGD", {"learning_rate": SCHEDULE}),
    "clipvalue": ("SGD", {**RATE, "clipvalue": 0.5}),
    "clipnorm": ("SGD", {**RATE, "clipnorm": 0.5}),
    "global_clipnorm": ("SGD", {**RATE, "global_clipnorm": 0.5}),
    "decay": ("SGD", {**RATE, "weight_decay": 0.25}),
}


@pytest.mark.parametrize("case", CASES)
def test_ten_steps_equal_keras(case):
    keras.config.set_floatx("float64")
    name, arguments = CASES[case]
    rng = np.random.default_rng(0)
    shapes = [(3,), (2, 2)]
    values = [rng.standard_normal(shape) for shape in shapes]
    variables = [keras.Variable(value, dtype="float64") for value in values]
    optimizer = getattr(keras.optimizers, name)(**arguments)
    rule = getattr(inner_optimizers, name)(**arguments)
    weights = [tf.constant(value) for value in values]
    state = rule.init(weights)
    for step in range(10):
        gradients = [rng.standard_normal(shape) for shape in shapes]
        gradients[0][0] = 0.0
        optimizer.apply([tf.constant(g) for g in gradients], variables)
        weights, state = rule.update(gradients, state, weights, step)
        for weight, variable in zip(weights, variables):
            np.testing.assert_allclose(weight, variable, rtol=1e-10)


@pytest.mark.parametrize(
    ("case", "steps"),
    [
        ("nesterov", 2),
        ("adam", 2),
        ("adam", 7),
        ("adamw", 2),
        ("centered", 2),
        ("adagrad", 2),
        ("global_clipnorm", 2),
    ],
)
def test_meta_gradient_equals_differences(case, steps):
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    name, arguments = CASES[case]
    meta_model = keras_maml.MetaModel(
        small_mlp(),
        inner_optimizer=getattr(inner_optimizers, name)(**arguments),
        inner_steps=steps,
        task_map="loop",
    )
    meta_model.compile("sgd", loss="mse")
    x, y = regression_batch(tasks=2, dtype="float64")
    oracle.assert_derivative(meta_model, x, y, rel=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_derivative_where_the_gradient_is_zero(case):
    # The first of the two weights has no gradient at all; near it the step is
    # smooth, and so is its derivative.
    name, arguments = CASES[case]
    # The scale on which Adam's step is smooth around a gradient of 0.
    if name in ("Adam", "AdamW"):
        arguments = {**arguments, "epsilon": 1e-2}
    rule = getattr(inner_optimizers, name)(**arguments)

    def end(gradient):
        weights = [tf.ones([2], tf.float64)]
        state = rule.init(weights)
        for step in range(2):
            weights, state = rule.update([gradient], state, weights, step)
        return weights[0]

    start = tf.constant([0.0, 2.0], tf.float64)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(start)
        result = end(start)
    actual = tape.jacobian(result, start, experimental_use_pfor=False)
    epsilon = 1e-7
    expected = np.stack(
        [
            (end(start + d) - end(start - d)) / (2 * epsilon)
            for d in epsilon * np.eye(2)
        ],
        axis=1,
    )
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)


def test_a_root_has_derivatives_at_zero():
    # Of |x|. A second derivative meets 0 · ∞ sooner than a first one.
    x = tf.constant([0.0, 2.0])
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            y = gradient_rule.safe_root(tf.square(x))
        first = inner.gradient(y, x)
    np.testing.assert_array_equal(first, [0.0, 1.0])
    np.testing.assert_array_equal(outer.gradient(first, x), [0.0, 0.0])


@pytest.mark.parametrize("jit_compile", [False, True])
def test_adam_has_a_derivative_at_zero_under_xla(jit_compile):
    # TensorFlow's own kernel takes 0 · ∞ for 0, and XLA for NaN.
    rule = inner_optimizers.Adam(0.125, epsilon=0.5)

    @tf.function(jit_compile=jit_compile, autograph=False)
    def slope(gradient):
        weights = [tf.ones([2])]
        with tf.GradientTape() as tape:
            tape.watch(gradient)
            weights, _ = rule.update([gradient], rule.init(weights), weights, 0)
        return tape.gradient(weights[0], gradient)

    # In the first step, w − 0.125 g / (|g| + ε'), where ε is divided by the
    # root that corrects the bias.
    epsilon = 0.5 / np.sqrt(1 - 0.999)
    expected = -0.125 * epsilon / (np.array([0.0, 2.0]) + epsilon) ** 2
    np.testing.assert_allclose(
        slope(tf.constant([0.0, 2.0])), expected, rtol=1e-4
    )


@pytest.mark.parametrize("case", CASES)
def test_round_trip(case):
    name, arguments = CASES[case]
    rule = getattr(inner_optimizers, name)(**arguments)
    config = keras.saving.serialize_keras_object(rule)
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is type(rule)
    assert again.get_config() == rule.get_config()


def test_a_schedule_counts_inner_steps():
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay(
        [0], [1.0, 0.25]
    )
    rule = inner_optimizers.SGD(schedule)
    weights, state = [tf.constant([0.0])], [()]
    for step in range(3):
        weights, state = rule.update([tf.constant([1.0])], state, weights, step)
    np.testing.assert_allclose(weights[0], [-1.5])
