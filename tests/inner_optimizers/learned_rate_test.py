"""Inner learning rates that the outer loop trains."""

import keras
import numpy as np
import pytest

import keras_maml
from keras_maml.inner_optimizers import SGD
from keras_maml.inner_optimizers import LearnedRate
from tests import oracle
from tests.sample_models import regression_batch
from tests.sample_models import regression_model
from tests.sample_models import small_mlp

# How rates are shared, and the shapes of the variables for two layers.
SHARING = {
    "model": ({"per": "model"}, [()]),
    "variable": ({"per": "variable"}, [(), (), (), ()]),
    "weight": ({"per": "weight"}, [(1, 5), (5,), (5, 1), (1,)]),
    "step": ({"per_step": True}, [(2,)]),
    "LSLR": ({"per": "variable", "per_step": True}, [(2,)] * 4),
    "weight and step": (
        {"per": "weight", "per_step": True},
        [(2, 1, 5), (2, 5), (2, 5, 1), (2, 1)],
    ),
}


def model(case="LSLR", **kwargs):
    return regression_model(
        **{
            "inner_optimizer": SGD(LearnedRate(0.05, **SHARING[case][0])),
            "inner_steps": 2,
            **kwargs,
        }
    )


@pytest.mark.parametrize("case", SHARING)
def test_rates_are_trained_saved_and_loaded(case, tmp_path):
    meta_model = model(case)
    rates = meta_model.meta_state.parameters
    assert [tuple(r.shape) for r in rates] == SHARING[case][1]
    x, y = regression_batch()
    before = [r.numpy() for r in rates]
    meta_model.fit(x, y, batch_size=4, epochs=2, verbose=0)
    for old, rate in zip(before, rates):
        assert np.all(np.abs(rate.numpy() - old) > 0)
    path = tmp_path / "model.keras"
    meta_model.save(path)
    loaded = keras.models.load_model(path)
    for rate, again in zip(rates, loaded.meta_state.parameters, strict=True):
        np.testing.assert_array_equal(rate, again)
    np.testing.assert_allclose(
        loaded.predict(x, verbose=0), meta_model.predict(x, verbose=0)
    )
    # They are used: with others, the prediction is another one.
    loaded.meta_state.parameters[0].assign(rates[0] * 0)
    assert not np.allclose(
        loaded.predict(x, verbose=0), meta_model.predict(x, verbose=0)
    )


@pytest.mark.parametrize(("case", "steps"), [("weight", 3), ("LSLR", 7)])
def test_gradient_of_rates(case, steps):
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    meta_model = model(case, inner_steps=steps, task_map="loop")
    x, y = regression_batch(tasks=2, dtype="float64")
    oracle.assert_derivative(meta_model, x, y, rel=1e-5)


def test_equal_frozen_rates_are_maml():
    x, y = regression_batch()
    maml = regression_model(inner_optimizer=0.05, inner_steps=3)
    meta_sgd = keras_maml.algorithms.meta_sgd(
        small_mlp(), inner_rate=0.05, inner_steps=3
    )
    meta_sgd.compile("adam", loss="mse")
    for rate in meta_sgd.meta_state.parameters:
        rate.trainable = False
    meta_sgd.learner.set_weights(maml.learner.get_weights())
    np.testing.assert_allclose(
        meta_sgd.predict(x, verbose=0), maml.predict(x, verbose=0), rtol=1e-6
    )


def test_more_steps_than_trained_use_the_last_rates():
    x, _ = regression_batch(tasks=1)
    support = x["support_x"][0], x["support_y"][0]
    meta_model = model(inner_steps=2)
    for rate in meta_model.meta_state.parameters:
        rate.assign([0.05, 0.02])
    five = meta_model.adapt(*support, inner_steps=5)
    by_hand = regression_model(
        inner_optimizer=SGD(
            keras.optimizers.schedules.PiecewiseConstantDecay([0], [0.05, 0.02])
        )
    )
    by_hand.learner.set_weights(meta_model.learner.get_weights())
    expected = by_hand.adapt(*support, inner_steps=5)
    for a, b in zip(five.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_rates_of_the_adapted_weights_alone():
    meta_model = model("weight", adapted_weights="head")
    shapes = [tuple(r.shape) for r in meta_model.meta_state.parameters]
    assert shapes == [(5, 1), (1,)]
