"""Random masks, averages and counters of a learner called as a function."""

import threading

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_maml
from keras_maml.engine import functional
from tests.sample_models import assert_same
from tests.sample_models import regression_batch
from tests.sample_models import small_mlp
from tests.sample_models import theta


@keras.saving.register_keras_serializable(package="keras_maml_tests")
class Mask(keras.layers.Layer):
    """Multiplies by a random 0 or 1, and shows which: its output is it."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seed_generator = keras.random.SeedGenerator(3)

    def call(self, inputs, training=False):
        if not training:
            return inputs
        drawn = keras.random.uniform((20,), seed=self.seed_generator)
        return inputs * 0 + keras.ops.expand_dims(
            keras.ops.cast(drawn < 0.5, "float32"), 0
        )


def test_each_task_step_and_call_draws_its_own_dropout():
    identity = keras.layers.Dense(
        20, use_bias=False, kernel_initializer="identity"
    )
    probe = keras.Sequential([keras.Input((20,)), Mask(), identity])
    meta_model = keras_maml.MetaModel(probe, inner_steps=0)
    meta_model.compile(optimizer=keras.optimizers.SGD(0.0), loss="mse")
    x = {
        "support_x": np.ones((3, 1, 20), "f"),
        "support_y": np.ones((3, 1, 20), "f"),
        "query_x": np.ones((3, 1, 20), "f"),
    }
    first = np.asarray(meta_model(x, training=True))[:, 0]
    # Different masks in different tasks, ...
    assert len({tuple(row) for row in first}) == 3
    # ... another after another inner step, ...
    second = np.asarray(meta_model(x, training=True, inner_steps=1))[:, 0]
    assert not np.array_equal(np.sign(second), first)
    # ... and after a training step, since the seed moved on.
    meta_model.train_on_batch(x, np.ones((3, 1, 20), "f"))
    third = np.asarray(meta_model(x, training=True))[:, 0]
    assert not np.array_equal(third, first)
    # In evaluation there is none.
    np.testing.assert_allclose(meta_model(x), 1.0)


def test_moving_averages_and_counters_move():
    @keras.saving.register_keras_serializable(package="keras_maml_tests")
    class Counter(keras.layers.Layer):
        def build(self, input_shape):
            self.calls = self.add_weight(
                shape=(), dtype="int32", initializer="zeros", trainable=False
            )

        def call(self, inputs, training=False):
            if training:
                self.calls.assign_add(1)
            return inputs

    learner = small_mlp(batch_norm=True)
    learner.add(Counter())
    meta_model = keras_maml.MetaModel(learner, inner_steps=2)
    meta_model.compile(optimizer=keras.optimizers.SGD(0.0), loss="mse")
    x, y = regression_batch(tasks=2)
    meta_model.fit(x, y, verbose=0)
    # As if the learner had been called on two supports and the queries.
    assert int(learner.layers[-1].calls.value) == 3
    assert not np.allclose(learner.layers[1].moving_mean, 0)
    # Evaluation changes nothing.
    before = theta(meta_model)
    meta_model.evaluate(x, y, verbose=0)
    meta_model.predict(x, verbose=0)
    assert_same(theta(meta_model), before, rtol=0)


def test_mixed_precision_learner_keeps_float32_weights():
    learner = keras.Sequential([keras.Input((1,))])
    for units in (8, 1):
        learner.add(
            keras.layers.Dense(units, activation="tanh", dtype="mixed_bfloat16")
        )
    meta_model = keras_maml.MetaModel(learner, inner_optimizer=0.1)
    meta_model.compile(optimizer="adam", loss="mse")
    x, y = regression_batch()
    meta_model.fit(x, y, verbose=0)
    adapted = meta_model.adapt(x["support_x"][0], x["support_y"][0])
    assert {w.dtype.name for w in adapted.get_weights()} == {"float32"}
    # The step is taken in float32: it moves weights by less than bfloat16's
    # resolution.
    for a, b in zip(adapted.get_weights(), theta(meta_model)):
        assert np.abs(a - b).max() > 0


def test_added_losses_survive_another_thread_that_calls_the_learner():
    class Adds(keras.layers.Layer):
        def call(self, inputs):
            self.add_loss(keras.ops.mean(keras.ops.square(inputs)))
            return inputs

    dense = keras.layers.Dense(
        1, kernel_initializer="ones", kernel_regularizer="l2"
    )
    learner = keras.Sequential([keras.Input((1,)), dense, Adds()])
    x = tf.constant([[2.0]])

    def call():
        weights = [tf.convert_to_tensor(v) for v in learner.trainable_variables]
        output = functional.call_learner(learner, weights, {}, x, training=True)
        return sorted(float(loss) for loss in output.losses)

    stop = threading.Event()

    def other():
        while not stop.is_set():
            learner(x)

    thread = threading.Thread(target=other)
    thread.start()
    try:
        for _ in range(20):
            assert call() == pytest.approx([0.01, 4.0])
    finally:
        stop.set()
        thread.join()
