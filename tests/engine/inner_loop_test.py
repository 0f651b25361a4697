"""The inner loop, its update rule and its loss, as pure functions."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_maml
from keras_maml.engine import functional
from keras_maml.engine import inner_forms
from keras_maml.engine import inner_loss
from keras_maml.engine.inner_loop import FORMS
from keras_maml.engine.inner_loop import inner_loop
from keras_maml.inner_optimizers import SGD
from tests.sample_models import class_batch
from tests.sample_models import regression_batch
from tests.sample_models import small_mlp


def test_state_goes_from_step_to_step():
    seen, losses = [], []

    def loss(number, weights, state, frozen):
        seen.append(int(state))
        losses.append(float(tf.reduce_sum(weights[0] ** 2)))
        return tf.reduce_sum(weights[0] ** 2), state + 1

    adapted = inner_loop(
        loss,
        [tf.constant([1.0, -2.0])],
        tf.constant(0),
        optimizer=SGD(0.25),
        steps=3,
        second_order=True,
    )
    # w ← w − 0.25 · 2w halves the weights.
    np.testing.assert_allclose(adapted.weights[0], [0.125, -0.25])
    np.testing.assert_allclose(losses, [5.0, 1.25, 0.3125])
    assert seen == [0, 1, 2]
    assert int(adapted.state) == 3


def test_a_loop_is_vectorized_whose_last_state_is_used():
    # A derivative with respect to that state once kept TensorFlow busy for
    # ever.
    def loss(number, weights, state, frozen):
        error = weights[0] * frozen - 1.0
        return tf.reduce_sum(error**2), 0.5 * state + tf.reduce_mean(frozen)

    def gradient(x):
        weight = tf.constant([0.5, 2.0])
        with tf.GradientTape() as tape:
            tape.watch(weight)
            adapted = inner_loop(
                loss,
                [weight],
                tf.constant(0.0),
                x,
                optimizer=SGD(0.1),
                steps=3,
                second_order=True,
                form="rematerialized",
            )
            result = tf.reduce_sum(adapted.weights[0]) * adapted.state
        return tape.gradient(result, weight)

    data = tf.constant([[1.0, 2.0], [3.0, -1.0]])
    vectorized = tf.function(
        lambda: tf.vectorized_map(gradient, data, fallback_to_while_loop=False)
    )
    np.testing.assert_allclose(
        vectorized(), [gradient(x) for x in data], rtol=1e-6
    )


@pytest.mark.parametrize("form", FORMS)
def test_derivatives_do_not_go_through_the_state(form):
    # The gradient for w is the state s, and a step keeps the w it began with:
    # w₁ = w₀ − α s₀, w₂ = w₁ − α w₀, w₃ = w₂ − α w₁. With s as a constant,
    # as Keras has it for moving averages, dw₃/dw₀ = 1. Through s it would be
    # 1 − 2α = 0.
    def loss(number, weights, state, frozen):
        return weights[0] * state, weights[0]

    @tf.function(autograph=False)
    def derivative(start):
        with tf.GradientTape() as tape:
            tape.watch(start)
            [end] = inner_loop(
                loss,
                [start],
                tf.constant(3.0),
                optimizer=SGD(0.5),
                steps=3,
                second_order=True,
                form=form,
            ).weights
        return end, tape.gradient(end, start)

    end, slope = derivative(tf.constant(2.0))
    # w: 2, 0.5, -0.5, -0.75.
    np.testing.assert_allclose([end, slope], [-0.75, 1.0])


class RunningMean(keras.layers.Layer):
    """Subtracts the mean of what it has seen so far."""

    def build(self, input_shape):
        self.mean = self.add_weight(
            shape=(), initializer="zeros", trainable=False, name="mean"
        )

    def call(self, x):
        y = x - self.mean
        self.mean.assign(0.5 * (self.mean + tf.reduce_mean(x)))
        return y


@pytest.mark.parametrize("steps", [3, 6])
def test_a_layer_that_uses_its_state_has_the_gradient_of_nested_tapes(steps):
    x, y = regression_batch(tasks=1)
    learner = keras.Sequential(
        [keras.Input((1,)), keras.layers.Dense(1), RunningMean()]
    )
    meta_model = keras_maml.MetaModel(
        learner, inner_optimizer=0.1, inner_steps=steps
    )
    meta_model.compile(optimizer=keras.optimizers.SGD(1.0), loss="mse")
    start = [tf.constant(w) for w in learner.get_weights()[:2]]
    meta_model.train_on_batch(x, y)

    def predict(weights, x, mean):
        output = x @ weights[0] + weights[1]
        new_mean = 0.5 * (mean + tf.reduce_mean(output))
        return output - mean, tf.stop_gradient(new_mean)

    with tf.GradientTape() as outer:
        outer.watch(start)
        weights, mean = start, tf.constant(0.0)
        for _ in range(steps):
            with tf.GradientTape() as inner:
                inner.watch(weights)
                output, mean = predict(weights, x["support_x"][0], mean)
                loss = tf.reduce_mean((output - x["support_y"][0]) ** 2)
            gradients = inner.gradient(loss, weights)
            weights = [w - 0.1 * g for w, g in zip(weights, gradients)]
        output, mean = predict(weights, x["query_x"][0], mean)
        loss = tf.reduce_mean((output - y[0]) ** 2)
    expected = [w - g for w, g in zip(start, outer.gradient(loss, start))]
    for actual, wanted in zip(learner.get_weights(), [*expected, mean]):
        np.testing.assert_allclose(actual, wanted, rtol=1e-4, atol=1e-5)


def test_unused_and_sparse_weights():
    table = tf.constant([[1.0], [2.0], [3.0]])
    unused = tf.constant([7.0])

    def loss(number, weights, state, frozen):
        return tf.reduce_sum(tf.gather(weights[0], [0, 2, 2])), state

    adapted = inner_loop(
        loss,
        [table, unused],
        (),
        optimizer=SGD(0.5),
        steps=1,
        second_order=True,
    )
    np.testing.assert_allclose(adapted.weights[0], [[0.5], [2.0], [2.0]])
    np.testing.assert_array_equal(adapted.weights[1], unused)


LOSSES = {
    "name": "sparse_categorical_crossentropy",
    "object": keras.losses.SparseCategoricalCrossentropy(),
    "function": lambda y, p: keras.losses.sparse_categorical_crossentropy(y, p),
    "scalar": lambda y, p: tf.reduce_mean(
        keras.losses.sparse_categorical_crossentropy(y, p)
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_inner_loss_is_the_mean_over_examples(name):
    labels = np.array([0, 2, 1])
    probabilities = np.array(
        [[0.5, 0.25, 0.25], [0.1, 0.1, 0.8], [0.2, 0.7, 0.1]], "float32"
    )
    loss = inner_loss.resolve(LOSSES[name], "the compiled one does not count")
    expected = -np.log([0.5, 0.8, 0.7])
    actual = loss(labels, tf.constant(probabilities), None)
    assert float(actual) == pytest.approx(expected.mean(), rel=1e-5)
    if name == "scalar":
        return
    weight = np.array([1.0, 0.0, 3.0], "float32")
    actual = loss(labels, tf.constant(probabilities), weight)
    assert float(actual) == pytest.approx(
        (expected * weight).sum() / 4, rel=1e-5
    )


def test_targets_fit_predictions_as_in_keras():
    # Plain functions and whole numbers as targets: whatever `compile` takes.
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 3, 4)
    predictions = tf.constant(rng.standard_normal((4, 1)), tf.float32)

    class Squared(keras.losses.Loss):
        def call(self, y_true, y_pred):
            return tf.reduce_mean((y_true - y_pred) ** 2, axis=-1)

    model = keras.Sequential([keras.Input((1,)), keras.layers.ReLU()])
    for loss in (lambda y, p: (y - p) ** 2, "mse"):
        model.compile(loss=loss)
        expected = model.compute_loss(y=targets, y_pred=predictions)
        actual = inner_loss.resolve(loss, None)(targets, predictions, None)
        assert float(actual) == pytest.approx(float(expected), rel=1e-5)
    expected = np.mean((targets[:, None] - predictions) ** 2)
    for one in (Squared(), [Squared()], {"output": Squared()}):
        actual = inner_loss.resolve(None, one)(
            targets[:, None], predictions, None
        )
        assert float(actual) == pytest.approx(expected, rel=1e-5)


def test_compiled_loss_stands_in():
    loss = inner_loss.resolve(None, keras.losses.MeanAbsoluteError())
    assert float(loss(np.zeros((2, 1)), tf.ones((2, 1)), None)) == 1.0


def test_half_precision_predictions_are_widened():
    loss = inner_loss.resolve("mse", None)
    value = loss(
        np.zeros((1, 1), "f"), tf.constant([[300.0]], tf.float16), None
    )
    assert value.dtype == tf.float32
    assert float(value) == 90000.0  # float16 ends at 65504


def test_masked_steps_do_not_count():
    # Keras's losses heed the mask that an Embedding sets; so must this one.
    learner = keras.Sequential(
        [
            keras.layers.Embedding(5, 3, mask_zero=True),
            keras.layers.Dense(1),
        ]
    )
    words = np.array([[1, 2, 0, 0], [3, 0, 0, 0]])
    targets = np.arange(8, dtype="float32").reshape(2, 4, 1)
    outputs = learner(words)
    expected = keras.losses.MeanSquaredError()(targets, outputs)
    actual = inner_loss.resolve("mse", None)(targets, outputs, None)
    assert float(actual) == pytest.approx(float(expected), rel=1e-5)
    only_first = np.array([1.0, 0.0], "f")
    actual = inner_loss.resolve("mse", None)(targets, outputs, only_first)
    errors = np.square(targets - outputs.numpy())[0, :2]
    assert float(actual) == pytest.approx(errors.mean(), rel=1e-5)


def test_calling_a_learner_leaves_nothing_behind():
    class AddsLoss(keras.layers.Layer):
        def call(self, x):
            self.add_loss(tf.reduce_sum(x))
            return x

    layer = AddsLoss()
    learner = keras.Sequential([keras.Input((1,)), layer, small_mlp()])
    weights = [tf.constant(v.numpy()) for v in learner.trainable_variables]
    for _ in range(3):
        output = functional.call_learner(
            learner, weights, {}, tf.ones((2, 1)), training=True
        )
        assert [float(loss) for loss in output.losses] == [2.0]
    assert not learner.losses
    assert not layer._loss_ids


def test_inner_loss_gives_the_field_its_rate():
    # With the mean over N·K examples, the paper's code's step at rate α on
    # (sum over N·K) / K is one at rate N·α.
    x, _ = class_batch(tasks=1, n_way=3, k_shot=2)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def paper_loss(y, logits):
        return tf.reduce_sum(loss.call(y, logits)) / 2

    learner = small_mlp(2, 3)
    theirs = keras_maml.MetaModel(
        learner, inner_optimizer=0.4, inner_loss=paper_loss
    )
    ours = keras_maml.MetaModel(learner, inner_optimizer=1.2, inner_loss=loss)
    np.testing.assert_allclose(ours(x), theirs(x), rtol=1e-4, atol=1e-6)


class Momentum(keras_maml.inner_optimizers.InnerOptimizer):
    """A rule with a state of its own."""

    def init(self, weights):
        return [tf.zeros_like(w) for w in weights]

    def update(self, gradients, state, weights, step):
        state = [0.9 * s + g for s, g in zip(state, gradients)]
        return [w - 0.1 * s for w, s in zip(weights, state)], state


def dropout_learner():
    return keras.Sequential(
        [
            keras.Input((2,)),
            keras.layers.Dense(8, activation="tanh"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5, seed=1),
            keras.layers.Dense(3),
        ]
    )


@pytest.mark.parametrize(
    ("policy", "kwargs"),
    [
        ("float32", {}),
        ("float32", {"normalization": "moving"}),
        ("float32", {"normalization": "support"}),
        ("float32", {"adapted_weights": ["dense_1"]}),
        ("float32", {"inner_optimizer": Momentum()}),
        ("float64", {}),
        ("mixed_bfloat16", {}),
        ("bfloat16", {}),
    ],
)
def test_a_loop_equals_steps_one_by_one(policy, kwargs, monkeypatch):
    # Dropout's seeds, moving averages, a padded support set and the rule's
    # state all go through the loop.
    x, y = class_batch(tasks=2)
    x["support_weight"] = np.ones(x["support_y"].shape, "float32")
    x["support_weight"][:, -1] = 0.0
    results = []
    for unrolled in (1, 3):
        monkeypatch.setattr(inner_forms, "_MAX_KEPT", unrolled)
        keras.utils.clear_session(free_memory=False)
        keras.utils.set_random_seed(0)
        keras.config.set_dtype_policy(policy)
        learner = dropout_learner()
        meta_model = keras_maml.MetaModel(
            learner,
            inner_steps=3,
            task_map="loop",
            **{"inner_optimizer": 0.3, **kwargs},
        )
        meta_model.compile(
            optimizer=keras.optimizers.SGD(1.0),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            # A graph of three steps takes the longest.
            run_eagerly=unrolled == 3,
        )
        meta_model.train_on_batch(x, y)
        results.append([np.asarray(v, "float64") for v in learner.variables])
    # Of bfloat16's eight bits CPUs with and without instructions for it lose
    # different ones: 0.07 was seen without.
    tolerance = {"float32": 1e-5, "float64": 1e-5}.get(policy, 0.1)
    for loop, one_by_one in zip(*results):
        np.testing.assert_allclose(loop, one_by_one, atol=tolerance)
