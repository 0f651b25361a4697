"""Batch normalisation with statistics and scales of each inner step."""

import keras
import numpy as np
import pytest

import keras_maml
from tests import oracle
from tests.sample_models import regression_batch
from tests.sample_models import small_mlp


def model(**kwargs):
    meta_model = keras_maml.MetaModel(
        small_mlp(batch_norm=True),
        **{
            "inner_optimizer": 0.1,
            "inner_steps": 2,
            "normalization": "per_step",
            **kwargs,
        },
    )
    meta_model.compile("adam", loss="mse")
    return meta_model


def own(meta_model):
    """The stacks of gamma, beta, moving mean and moving variance."""
    scales = meta_model.meta_state.scales
    return [*scales, *meta_model.meta_state.statistics.values()]


def test_every_row_is_trained_saved_and_loaded(tmp_path):
    meta_model = model()
    assert [tuple(v.shape) for v in own(meta_model)] == [(2, 5)] * 4
    x, y = regression_batch()
    before = [v.numpy() for v in own(meta_model)]
    meta_model.fit(x, y, batch_size=4, epochs=3, verbose=0)
    for old, variable in zip(before, own(meta_model)):
        assert np.all(np.any(variable.numpy() != old, axis=1))
        assert np.any(variable.numpy()[0] != variable.numpy()[1])
    meta_model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for a, b in zip(own(meta_model), own(loaded), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(
        loaded.predict(x, verbose=0), meta_model.predict(x, verbose=0)
    )


def test_the_rows_of_a_step_are_used_at_that_step():
    # By hand: ordinary Keras models whose layer has the row of the step.
    x, y = regression_batch(tasks=1)
    support = x["support_x"][0], x["support_y"][0]
    meta_model = model()
    rng = np.random.default_rng(0)
    for variable in own(meta_model):
        variable.assign(1 + 0.5 * rng.random(variable.shape))

    by_hand = keras.models.clone_model(meta_model.learner)
    by_hand.set_weights(meta_model.learner.get_weights())
    by_hand.compile(keras.optimizers.SGD(0.1), loss="mse")
    norm = by_hand.layers[1]

    def use_row(step):
        for variable, stack in zip(norm.weights, own(meta_model)):
            variable.assign(stack[step])

    def learn(step):
        # The support set's own statistics; what became of the layer's
        # variables is put right again.
        use_row(step)
        before = by_hand.get_weights()
        by_hand.train_on_batch(*support)
        assert any(
            np.any(a != b) for a, b in zip(before, by_hand.get_weights())
        )
        use_row(step)

    def predict(model):
        return model(x["query_x"][0])

    learn(0)
    learn(1)
    # The query set is normalised by the row of the last step.
    expected = predict(by_hand)
    np.testing.assert_allclose(
        meta_model.predict(x, verbose=0)[0], expected, rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(
        predict(meta_model.adapt(*support)), expected, rtol=1e-4, atol=1e-6
    )
    # More steps than there are rows go on with the last one.
    learn(1)
    np.testing.assert_allclose(
        predict(meta_model.adapt(*support, inner_steps=3)),
        predict(by_hand),
        rtol=1e-4,
        atol=1e-6,
    )


def test_fewer_steps_than_rows_predict_with_the_row_of_the_last_step():
    x, y = regression_batch(tasks=1)
    predictions = []
    for change in (0.0, 1.0):
        keras.utils.set_random_seed(0)
        meta_model = model(inner_steps=3, evaluation_steps=2)
        for variable in own(meta_model):
            rows = np.array(variable)
            rows[2] += change
            variable.assign(rows)
        predictions.append(meta_model.predict(x, verbose=0))
    np.testing.assert_array_equal(*predictions)


def test_a_meta_batch_that_is_evaluated_moves_no_average():
    x, y = regression_batch()
    meta_model = model()
    meta_model.fit(x, y, batch_size=4, verbose=0)
    before = [v.numpy() for v in meta_model.variables]
    meta_model.evaluate(x, y, batch_size=4, verbose=0)
    for a, b in zip(before, meta_model.variables, strict=True):
        if "metric" not in b.path:
            np.testing.assert_array_equal(a, b)


def test_training_uses_the_batch_and_moves_the_rows_averages():
    x, y = regression_batch(tasks=1)
    meta_model = model()
    hidden = x["support_x"][0] @ meta_model.learner.get_weights()[0]
    meta_model.fit(x, y, batch_size=1, verbose=0)
    mean = list(meta_model.meta_state.statistics.values())[0]
    # Momentum 0.9, from 0; step 0 sees the support set alone.
    np.testing.assert_allclose(
        mean.numpy()[0], 0.1 * hidden.mean(0), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("steps", [2, pytest.param(7, marks=pytest.mark.slow)])
def test_gradient(steps):
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    x, y = regression_batch(tasks=2, dtype="float64")
    oracle.assert_derivative(
        model(inner_steps=steps, task_map="loop"), x, y, rel=1e-5
    )


@pytest.mark.slow
def test_engines_agree():
    x, y = regression_batch()
    results = []
    for task_map in ("loop", "vectorized"):
        keras.utils.set_random_seed(0)
        meta_model = model(task_map=task_map)
        # A graph of one of them is enough.
        meta_model.run_eagerly = task_map == "loop"
        meta_model.fit(x, y, batch_size=4, epochs=2, verbose=0)
        results.append([v.numpy() for v in own(meta_model)])
    for a, b in zip(*results):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
