"""Learners whose inner loop could go wrong without a word."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_maml
from tests.sample_models import regression_batch


@tf.function
def product(layer, x):
    return x @ layer.kernel


class CompiledCall(keras.layers.Dense):
    @tf.function
    def call(self, inputs):
        return super().call(inputs)


class CompiledHelper(keras.layers.Dense):
    def build(self, input_shape):
        super().build(input_shape)
        self.functions = [tf.function(lambda x: x @ self.kernel)]

    def call(self, inputs):
        return self.functions[0](inputs) + self.bias


class CompiledElsewhere(keras.layers.Dense):
    def call(self, inputs):
        return product(self, inputs) + self.bias


@pytest.mark.parametrize(
    "layer", [CompiledCall, CompiledHelper, CompiledElsewhere]
)
def test_graph_functions_compute_with_the_weights_of_each_step(layer):
    def outcome(kind):
        learner = keras.Sequential(
            [
                keras.Input((1,)),
                kind(4, kernel_initializer=keras.initializers.GlorotNormal(0)),
                keras.layers.Dense(
                    1, kernel_initializer=keras.initializers.GlorotNormal(1)
                ),
            ]
        )
        x, y = regression_batch(tasks=2)
        # Traced, with the variables themselves, before the inner loop is.
        learner(x["query_x"][0])
        meta_model = keras_maml.MetaModel(
            learner, inner_optimizer=0.1, inner_steps=3, task_map="loop"
        )
        meta_model.compile(keras.optimizers.SGD(1.0), "mse")
        adapted = meta_model.adapt(x["support_x"][0], x["support_y"][0])
        meta_model.train_on_batch(x, y)
        return [*adapted.get_weights(), *learner.get_weights()]

    for a, b in zip(outcome(layer), outcome(keras.layers.Dense), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


class DrawsWithoutSeed(keras.layers.Layer):
    def call(self, inputs, training=False):
        if not training:
            return inputs
        return inputs * keras.random.uniform(inputs.shape[-1:])


def test_a_draw_without_a_seed_of_the_layer_is_refused():
    learner = keras.Sequential(
        [keras.Input((1,)), keras.layers.Dense(3), DrawsWithoutSeed()]
    )
    meta_model = keras_maml.MetaModel(learner, task_map="loop")
    meta_model.compile("sgd", "mse")
    x, y = regression_batch(tasks=2)
    x["support_y"] = np.repeat(x["support_y"], 3, -1)
    message = r"give the layer a `keras.random.SeedGenerator` .* Received: "
    with pytest.raises(ValueError, match=message):
        meta_model.train_on_batch(x, np.repeat(y, 3, -1))


class NormalizingCell(keras.layers.SimpleRNNCell):
    def __init__(self, units, normalizes=True, **kwargs):
        super().__init__(units, **kwargs)
        self.normalization = keras.layers.BatchNormalization(
            trainable=normalizes
        )

    def build(self, input_shape):
        super().build(input_shape)
        self.normalization.build((None, self.units))

    def call(self, inputs, states, training=False):
        output, states = super().call(inputs, states, training=training)
        return self.normalization(output, training=training), states


def recurrent_model(unroll, **kwargs):
    cell = NormalizingCell(3, **kwargs)
    learner = keras.Sequential(
        [
            keras.Input((4, 1)),
            keras.layers.RNN(cell, unroll=unroll),
            keras.layers.Dense(1),
        ]
    )
    meta_model = keras_maml.MetaModel(learner, task_map="loop")
    meta_model.compile("sgd", "mse")
    x, y = regression_batch(tasks=2)
    x["support_x"] = np.repeat(x["support_x"][:, :, np.newaxis], 4, 2)
    x["query_x"] = np.repeat(x["query_x"][:, :, np.newaxis], 4, 2)
    return meta_model, x, y


def test_a_state_that_changes_within_a_loop_is_refused():
    meta_model, x, y = recurrent_model(unroll=False)
    for call in (
        lambda: meta_model.train_on_batch(x, y),
        lambda: meta_model.predict(x, verbose=0),
    ):
        with pytest.raises(
            ValueError, match=r"Pass `unroll=True`.* variable .*/moving_mean'"
        ):
            call()


@pytest.mark.parametrize(
    "kwargs", [{"unroll": True}, {"unroll": False, "normalizes": False}]
)
def test_a_cell_may_normalize_if_unrolled_or_frozen(kwargs):
    meta_model, x, y = recurrent_model(**kwargs)
    assert np.isfinite(meta_model.train_on_batch(x, y))


class Stopped(keras.layers.Layer):
    def call(self, inputs):
        return keras.ops.stop_gradient(inputs)


@pytest.mark.parametrize("inner_steps", [1, 7])
def test_an_inner_loop_without_any_gradient_is_an_error(inner_steps):
    learner = keras.Sequential(
        [keras.Input((1,)), keras.layers.Dense(1), Stopped()]
    )
    meta_model = keras_maml.MetaModel(learner, inner_steps=inner_steps)
    meta_model.compile("sgd", "mse")
    x, y = regression_batch(tasks=2)
    with pytest.raises(ValueError, match="does not depend on any weight"):
        meta_model.train_on_batch(x, y)
    with pytest.raises(ValueError, match=r"shapes \[\(1, 1\), \(1,\)\]"):
        meta_model.adapt(x["support_x"][0], x["support_y"][0])


def test_sparse_gradients_go_through_the_loop_of_many_steps():
    def weights(steps, rematerialize):
        learner = keras.Sequential(
            [
                keras.Input((2,), dtype="int32"),
                keras.layers.Embedding(
                    4,
                    3,
                    embeddings_initializer=keras.initializers.RandomNormal(
                        seed=0
                    ),
                ),
                keras.layers.Flatten(),
                keras.layers.Dense(
                    1, kernel_initializer=keras.initializers.GlorotNormal(0)
                ),
            ]
        )
        meta_model = keras_maml.MetaModel(
            learner,
            inner_optimizer=0.1,
            inner_steps=steps,
            meta_gradient=keras_maml.meta_gradients.SecondOrder(rematerialize),
        )
        meta_model.compile(keras.optimizers.SGD(1.0), "mse")
        words = np.array([[[0, 1], [2, 2]], [[3, 1], [0, 0]]], "int32")
        y = np.ones((2, 2, 1), "f")
        x = {"support_x": words, "support_y": y, "query_x": words[:, ::-1]}
        meta_model.train_on_batch(x, y)
        return learner.get_weights()

    for plain, again in zip(weights(3, False), weights(3, True), strict=True):
        np.testing.assert_allclose(plain, again, rtol=1e-5, atol=1e-6)
    assert np.isfinite(weights(7, False)[0]).all()
