"""Adaptation and prediction as functions of tensors alone."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_maml
from keras_maml.engine.stateless_learner import StatelessLearner
from tests.sample_models import class_batch
from tests.sample_models import small_mlp

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@keras.saving.register_keras_serializable(package="keras_maml_tests")
class Noise(keras.layers.Layer):
    """A layer that draws random numbers in predictions too."""

    def __init__(self, seed=0, **kwargs):
        super().__init__(**kwargs)
        self.generator = keras.random.SeedGenerator(seed)

    def call(self, inputs):
        noise = keras.random.normal(tf.shape(inputs)[1:], seed=self.generator)
        return inputs + noise


def model(learner=None, **settings):
    if learner is None:
        learner = small_mlp(2, 3, batch_norm=True)
    meta_model = keras_maml.MetaModel(
        learner, inner_optimizer=0.5, task_map="loop", **settings
    )
    meta_model.compile(loss=LOSS)
    return meta_model


def predicted(meta_model, steps=None):
    """Returns what `call` gives, and what names and tensors give."""
    x, _ = class_batch()
    # Eager: a trace takes longer.
    expected = meta_model.call(x)
    support = {key: tf.constant(x[key]) for key in ("support_x", "support_y")}
    stateless = StatelessLearner(
        meta_model, meta_model.meta_state.input_signature
    )
    adapt = tf.function(stateless.adapt_tasks, autograph=False)
    predict = tf.function(stateless.predict_tasks, autograph=False)
    weights = adapt(support, steps)
    assert list(weights) == list(stateless.specs)
    for name, value in weights.items():
        spec = stateless.specs[name]
        assert name.isidentifier()
        assert value.dtype == spec.dtype
        assert spec.shape.is_compatible_with(value.shape[1:])
    return expected, predict(tf.constant(x["query_x"]), weights), weights


BODY = ["weight_0_kernel", "weight_1_bias", "weight_2_gamma", "weight_3_beta"]
STATISTICS = ["weight_4_moving_mean", "weight_5_moving_variance"]
END = ["weight_6_kernel", "weight_7_bias"]


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"normalization": "support"}, [*BODY, *END, *STATISTICS]),
        ({"normalization": "transductive"}, [*BODY, *END]),
        ({"normalization": "moving", "adapted_weights": "head"}, END),
        (
            {"normalization": "per_step", "inner_steps": 2},
            [*BODY[:2], *END, "inner_steps"],
        ),
        (
            {"head_init": "prototypes"},
            [*BODY, *END, "head_kernel", "head_bias"],
        ),
    ],
)
def test_only_what_a_prediction_needs_has_a_name(settings, names):
    expected, actual, weights = predicted(model(**settings))
    assert list(weights) == names
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_a_task_is_learned_without_an_axis_of_tasks():
    meta_model = model(normalization="support", inner_steps=2)
    expected, _, weights = predicted(meta_model)
    x, _ = class_batch()
    stateless = StatelessLearner(
        meta_model, meta_model.meta_state.input_signature
    )
    support = {key: tf.constant(x[key][1]) for key in x if key != "query_x"}
    adapted = stateless.adapt(support)
    for name, value in adapted.items():
        np.testing.assert_allclose(value, weights[name][1], rtol=1e-5)
    np.testing.assert_allclose(
        stateless.predict(x["query_x"][1], adapted), expected[1], atol=1e-6
    )


def test_each_task_may_take_a_number_of_steps_of_its_own():
    meta_model = model(normalization="per_step", inner_steps=2)
    rows = meta_model.meta_state.scales[0]
    rows.assign(rows + [[0.0], [1.0]])
    _, actual, weights = predicted(meta_model, tf.constant([0, 1, 3]))
    assert weights["inner_steps"].numpy().tolist() == [0, 1, 3]
    x, _ = class_batch()
    for task, steps in enumerate((0, 1, 3)):
        expected = meta_model.call(x, inner_steps=steps)[task]
        np.testing.assert_allclose(actual[task], expected, atol=1e-6)


def test_random_predictions_take_their_seed_along():
    learner = small_mlp(2, 3)
    noisy = keras.Sequential([keras.Input((2,)), Noise(), learner])
    expected, actual, weights = predicted(model(noisy))
    assert [name for name in weights if name.startswith("seed")] == ["seed_0"]
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
    # Dropout draws none.
    still = keras.Sequential(
        [keras.Input((2,)), learner, keras.layers.Dropout(0.5)]
    )
    assert not any(
        name.startswith("seed") for name in predicted(model(still))[2]
    )


def test_names_do_not_depend_on_the_process():
    class Layer(keras.layers.Layer):
        def build(self, shape):
            self.scale = self.add_weight(shape=())
            self.shift = self.add_weight(shape=(), name="a shift")

        def call(self, inputs):
            return inputs * self.scale + self.shift

    for _ in range(2):
        learner = keras.Sequential(
            [keras.Input((2,)), Layer(), keras.layers.Dense(3)]
        )
        assert list(predicted(model(learner))[2]) == [
            "weight_0_variable",
            "weight_1_a_shift",
            "weight_2_kernel",
            "weight_3_bias",
        ]
