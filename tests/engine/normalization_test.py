"""The three choices of statistics, and the exact moments."""

import threading

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_maml
from keras_maml.engine import normalization
from tests.sample_models import regression_batch
from tests.sample_models import small_mlp

# Per-step statistics have tests of their own.
MODES = [m for m in normalization.MODES if m != "per_step"]


def normalized_model(mode, **kwargs):
    learner = small_mlp(batch_norm=True)
    # Moving averages that no batch has.
    learner.layers[1].moving_mean.assign(tf.fill([5], 0.7))
    learner.layers[1].moving_variance.assign(tf.fill([5], 4.0))
    return keras_maml.MetaModel(
        learner,
        inner_optimizer=0.1,
        inner_loss="mse",
        normalization=mode,
        **kwargs,
    )


def predictions(meta_model, x, **changes):
    return meta_model.predict({**x, **changes}, verbose=0)


@pytest.mark.parametrize(
    ("mode", "other_queries_matter", "support_matters"),
    [
        ("transductive", True, False),
        ("support", False, True),
        ("moving", False, False),
    ],
)
def test_what_a_prediction_depends_on(
    mode, other_queries_matter, support_matters
):
    # With no inner steps the statistics are the only path between examples.
    meta_model = normalized_model(mode, evaluation_steps=0)
    x, _ = regression_batch(tasks=2)
    first = predictions(meta_model, x)[:, 0]
    other_queries = x["query_x"].copy()
    other_queries[:, 1:] += 3.0
    changed = predictions(meta_model, x, query_x=other_queries)[:, 0]
    assert np.allclose(first, changed, atol=1e-6) != other_queries_matter
    changed = predictions(meta_model, x, support_x=3 * x["support_x"])[:, 0]
    assert np.allclose(first, changed, atol=1e-6) != support_matters


def by_hand(learner, x, statistics_of, kernel=None):
    """Predictions of one task with the statistics of given inputs."""
    k1, b1, gamma, beta, mean, variance, k2, b2 = learner.get_weights()
    if statistics_of is not None:
        hidden = statistics_of @ k1 + b1
        mean, variance = hidden.mean(0), hidden.var(0)
    normalized = (x @ k1 + b1 - mean) / np.sqrt(variance + 1e-3)
    return np.tanh(normalized * gamma + beta) @ k2 + b2


@pytest.mark.parametrize("mode", MODES)
def test_statistics_are_those_of_the_right_examples(mode):
    meta_model = normalized_model(mode, evaluation_steps=0)
    x, _ = regression_batch(tasks=2)
    actual = predictions(meta_model, x)
    for t in range(2):
        of = {
            "transductive": x["query_x"][t],
            "support": x["support_x"][t],
            "moving": None,
        }[mode]
        expected = by_hand(meta_model.learner, x["query_x"][t], of)
        np.testing.assert_allclose(actual[t], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_adapted_models_carry_their_statistics(mode):
    meta_model = normalized_model(mode, inner_steps=2)
    x, _ = regression_batch(tasks=2)
    expected = predictions(meta_model, x)[0]
    adapted = meta_model.adapt(x["support_x"][0], x["support_y"][0])
    if mode == "transductive":
        # The batch's statistics need Keras's training mode.
        actual = adapted(x["query_x"][0], training=True)
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
        support = normalized_model("support", inner_steps=2)
        adapted = meta_model.adapt(x["support_x"][0], x["support_y"][0])
        expected = predictions(support, x)[0]
    actual = adapted.predict(x["query_x"][0], verbose=0)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_training_uses_the_right_statistics(mode):
    meta_model = normalized_model(mode, inner_steps=0)
    meta_model.compile(optimizer=keras.optimizers.SGD(0.0), loss="mse")
    x, y = regression_batch(tasks=2)
    learner = meta_model.learner
    before = learner.layers[1].moving_mean.numpy()
    of = x["support_x"] if mode == "support" else x["query_x"]
    statistics_of = (lambda t: None) if mode == "moving" else of.__getitem__
    expected = np.mean(
        [
            np.mean(
                (by_hand(learner, x["query_x"][t], statistics_of(t)) - y[t])
                ** 2
            )
            for t in range(2)
        ]
    )
    loss = meta_model.fit(x, y, verbose=0).history["loss"][0]
    assert loss == pytest.approx(expected, rel=1e-4)
    after = learner.layers[1].moving_mean.numpy()
    if mode != "transductive":
        # No step was taken, and queries do not count as a batch. A learner
        # with `"moving"` keeps its own averages.
        np.testing.assert_array_equal(before, after)
    else:
        k1, b1 = learner.get_weights()[:2]
        batch = np.mean((x["query_x"] @ k1 + b1).mean(axis=1), axis=0)
        np.testing.assert_allclose(after, 0.9 * before + 0.1 * batch, rtol=1e-4)


def test_dropout_is_off_in_evaluation_whatever_the_statistics():
    learner = keras.Sequential(
        [
            keras.Input((1,)),
            keras.layers.Dense(5),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(1),
        ]
    )
    x, _ = regression_batch(tasks=2)
    for mode in normalization.MODES:
        meta_model = keras_maml.MetaModel(
            learner, inner_loss="mse", normalization=mode
        )
        np.testing.assert_array_equal(
            predictions(meta_model, x), predictions(meta_model, x)
        )


def test_a_frozen_layer_keeps_its_stored_statistics():
    meta_model = normalized_model("transductive", evaluation_steps=0)
    meta_model.learner.layers[1].trainable = False
    x, _ = regression_batch(tasks=1)
    expected = by_hand(meta_model.learner, x["query_x"][0], None)
    np.testing.assert_allclose(
        predictions(meta_model, x)[0], expected, rtol=1e-4, atol=1e-5
    )


class Spare(keras.Model):
    """A model with a layer that it does not call."""

    def __init__(self):
        super().__init__()
        self.used = keras.layers.BatchNormalization()
        self.spare = keras.layers.BatchNormalization()
        self.head = keras.layers.Dense(1)

    def build(self, input_shape):
        for layer in (self.used, self.spare, self.head):
            layer.build(input_shape)

    def call(self, x):
        return self.head(self.used(x))


def test_a_layer_that_is_not_called_has_no_statistics():
    learner = Spare()
    learner.build((None, 1))
    meta_model = keras_maml.MetaModel(
        learner,
        adapted_weights=[learner.head],
        inner_loss="mse",
        normalization="support",
    )
    x, _ = regression_batch(tasks=1)
    outputs = predictions(meta_model, x)
    assert outputs.shape == (1, 5, 1)


def test_layers_are_left_as_they_were():
    learner = small_mlp(batch_norm=True)
    layer = learner.layers[1]
    config = learner.get_config()
    meta_model = keras_maml.MetaModel(
        learner, inner_loss="mse", normalization="support"
    )
    meta_model.predict(regression_batch()[0], verbose=0)
    assert "call" not in vars(layer)
    assert layer.momentum == 0.9
    assert learner.get_config() == config


@keras.saving.register_keras_serializable(package="keras_maml_tests")
class WithoutMask(keras.layers.BatchNormalization):
    """As subclasses are often written: no `mask`."""

    def call(self, inputs, training=None):
        return super().call(inputs, training=training)


class WithoutTraining(keras.layers.BatchNormalization):
    def call(self, inputs):
        return super().call(inputs)


@pytest.mark.parametrize("mode", MODES)
def test_a_subclass_without_a_mask_equals_its_base(mode):
    x, _ = regression_batch(tasks=2)
    expected = predictions(normalized_model(mode), x)
    learner = keras.Sequential(
        [
            WithoutMask.from_config(layer.get_config())
            if isinstance(layer, keras.layers.BatchNormalization)
            else layer
            for layer in normalized_model(mode).learner.layers
        ]
    )
    learner.build((None, 1))
    learner.set_weights(normalized_model(mode).learner.get_weights())
    meta_model = keras_maml.MetaModel(
        learner, inner_optimizer=0.1, inner_loss="mse", normalization=mode
    )
    np.testing.assert_allclose(predictions(meta_model, x), expected, rtol=1e-4)


def test_a_subclass_that_cannot_be_told_is_refused():
    learner = keras.Sequential(
        [
            keras.Input((1,)),
            WithoutTraining(name="alone"),
            keras.layers.Dense(1),
        ]
    )
    x, _ = regression_batch(tasks=1)
    meta_model = keras_maml.MetaModel(learner, inner_loss="mse")
    with pytest.raises(ValueError, match="argument `training`.* 'alone'"):
        meta_model.adapt(x["support_x"][0], x["support_y"][0])
    moving = keras_maml.MetaModel(
        learner, inner_loss="mse", normalization="moving"
    )
    moving.adapt(x["support_x"][0], x["support_y"][0])


@pytest.mark.parametrize("kind", [keras.layers.BatchNormalization, WithoutMask])
def test_another_thread_sees_the_layer_as_it_is(kind):
    layer = kind()
    x = tf.constant(np.random.default_rng(0).standard_normal((6, 3)), "float32")
    layer.build(x.shape)
    expected = layer(x, training=False).numpy()
    seen = {}

    def other():
        seen["output"] = layer(x, training=False).numpy()
        seen["momentum"] = layer.momentum

    with normalization.batch_statistics([layer], momentum=0.0):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        inside = layer(x, training=False).numpy()
    np.testing.assert_array_equal(seen["output"], expected)
    assert seen["momentum"] == 0.99
    # The thread that entered got the batch's own statistics.
    np.testing.assert_allclose(inside.mean(0), 0.0, atol=1e-6)
    np.testing.assert_allclose(layer.moving_mean, x.numpy().mean(0), rtol=1e-5)


class Scaled(keras.layers.BatchNormalization):
    def call(self, inputs, scale=1.0, training=None, mask=None):
        return scale * super().call(inputs, training=training, mask=mask)


def test_further_arguments_reach_a_subclass():
    layer = Scaled()
    x = tf.constant(np.random.default_rng(0).standard_normal((6, 3)), "float32")
    layer.build(x.shape)
    expected = layer(x, scale=2.0, training=True).numpy()
    layer = Scaled()
    layer.build(x.shape)
    with normalization.batch_statistics([layer]):
        np.testing.assert_allclose(layer(x, scale=2.0), expected, rtol=1e-6)


def test_moving_averages_are_the_same_in_training_and_evaluation():
    # Otherwise θ is trained for an inner loop that evaluation does not have.
    meta_model = normalized_model("moving", inner_steps=2)
    meta_model.compile(optimizer=keras.optimizers.SGD(0.0), loss="mse")
    x, y = regression_batch(tasks=2)
    before = meta_model.learner.get_weights()
    loss = meta_model.fit(x, y, verbose=0).history["loss"][0]
    assert loss == pytest.approx(meta_model.evaluate(x, y, verbose=0), rel=1e-5)
    for a, b in zip(before, meta_model.learner.get_weights()):
        np.testing.assert_array_equal(a, b)
