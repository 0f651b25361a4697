"""Which inner steps' query losses count."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_maml
from keras_maml.meta_gradients import SecondOrder
from keras_maml.outer_loss import MultiStep
from keras_maml.outer_loss import OuterLoss
from tests import oracle
from tests.sample_models import regression_batch
from tests.sample_models import regression_model


def test_weights_are_those_of_the_released_code():
    loss = MultiStep(annealing_iterations=10)
    for iteration in range(12):
        expected = np.ones(5) / 5
        share = 1 / 5 / 10
        floor = 0.03 / 5
        expected[:-1] = np.maximum(expected[:-1] - iteration * share, floor)
        expected[-1] = min(expected[-1] + iteration * 4 * share, 1 - 4 * floor)
        if iteration >= 10:
            expected = np.array([0, 0, 0, 0, 1.0])
        np.testing.assert_allclose(
            loss.weights(5, iteration), expected, rtol=1e-6
        )


def test_the_weights_of_earlier_steps_end_at_3_percent():
    loss = MultiStep(annealing_iterations=1000)
    for iteration, share in ((960, 0.04), (980, 0.03), (999, 0.03)):
        earlier = share / 4
        np.testing.assert_allclose(
            loss.weights(4, iteration),
            [earlier, earlier, earlier, 1 - 3 * earlier],
            rtol=1e-5,
        )


@pytest.mark.parametrize("steps", [3, 7])
def test_is_the_weighted_sum_of_the_losses_after_each_step(steps):
    x, y = regression_batch()
    meta_model = regression_model(
        inner_steps=steps, outer_loss=MultiStep(annealing_iterations=10)
    )
    meta_model.optimizer.build(meta_model.trainable_variables)
    meta_model.optimizer.iterations.assign(4)
    mean = meta_model._step((x, y), training=True)[0].mean
    scores = keras_maml.evaluate_tasks(
        meta_model,
        [(x, y)],
        keras.losses.mean_squared_error,
        inner_steps=range(1, steps + 1),
    )
    losses = [scores[i].mean for i in range(1, steps + 1)]
    weights = meta_model.outer_loss.weights(steps, 4)
    np.testing.assert_allclose(mean["loss"], np.dot(weights, losses), rtol=1e-5)


class OneStep(OuterLoss):
    """The query loss after one of the inner steps."""

    def __init__(self, number):
        self.number = number

    def weights(self, steps, iteration):
        return tf.one_hot(self.number, steps)


@pytest.mark.parametrize("number", [0, 4])
def test_the_losses_of_a_loop_of_many_steps_are_in_order(number):
    # In a graph, the first step is unrolled and the others are a loop.
    x, y = regression_batch()
    meta_model = regression_model(
        inner_steps=7,
        evaluation_steps=number + 1,
        outer_loss=OneStep(number),
    )
    expected = meta_model.test_on_batch(x, y, return_dict=True)["loss"]
    actual = meta_model.train_on_batch(x, y, return_dict=True)["loss"]
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("steps", "rematerialize"), [(3, False), (3, True), (7, False)]
)
def test_gradient(steps, rematerialize):
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    meta_model = regression_model(
        inner_steps=steps,
        outer_loss=MultiStep(annealing_iterations=10),
        meta_gradient=SecondOrder(rematerialize),
        task_map="loop",
    )
    x, y = regression_batch(tasks=2, dtype="float64")
    oracle.assert_derivative(meta_model, x, y, rel=1e-5)


def test_annealing_reaches_maml():
    x, y = regression_batch()
    results = []
    for outer_loss in ("last_step", MultiStep(annealing_iterations=1)):
        keras.utils.set_random_seed(0)
        meta_model = regression_model(inner_steps=2, outer_loss=outer_loss)
        meta_model.optimizer.build(meta_model.trainable_variables)
        meta_model.optimizer.iterations.assign(1)
        meta_model.fit(x, y, batch_size=4, verbose=0)
        results.append(meta_model.learner.get_weights())
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
