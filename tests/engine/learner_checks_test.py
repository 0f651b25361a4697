"""Learners whose inner loop would go wrong without a word are refused."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_maml
from tests.sample_models import regression_batch


class CompiledCall(keras.layers.Dense):
    @tf.function
    def call(self, inputs):
        return super().call(inputs)


class CompiledHelper(keras.layers.Dense):
    def build(self, input_shape):
        super().build(input_shape)
        self.product = tf.function(lambda x: x @ self.kernel)

    def call(self, inputs):
        return self.product(inputs)


@pytest.mark.parametrize(
    ("layer", "name"), [(CompiledCall, "call"), (CompiledHelper, "product")]
)
def test_a_layer_with_a_graph_function_is_refused(layer, name):
    learner = keras.Sequential([keras.Input((1,)), layer(1, name="compiled")])
    message = rf"layer 'compiled' with a `tf.function` as \['{name}'\]"
    with pytest.raises(ValueError, match=message):
        keras_maml.MetaModel(learner)


def test_a_learner_that_was_trained_by_itself_is_not_refused():
    learner = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    learner.compile("sgd", "mse")
    learner.fit(np.ones((2, 1)), np.ones((2, 1)), verbose=0)
    keras_maml.MetaModel(learner)


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
