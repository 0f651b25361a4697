"""What adapts to a task, how far, and what stays."""

import concurrent.futures

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_maml
from keras_maml import adaptation
from tests.sample_models import SubclassedLearner
from tests.sample_models import assert_same
from tests.sample_models import regression_batch
from tests.sample_models import regression_model
from tests.sample_models import small_mlp
from tests.sample_models import theta


@pytest.mark.parametrize("kind", ["sequential", "functional", "subclassed"])
def test_any_kind_of_model_adapts(kind):
    if kind == "sequential":
        learner = keras.Sequential(
            [keras.layers.Dense(3), keras.layers.Dense(1)]
        )
    elif kind == "functional":
        inputs = keras.Input((1,))
        hidden = keras.layers.Dense(3, activation="tanh")(inputs)
        learner = keras.Model(inputs, keras.layers.Dense(1)(hidden))
    else:
        learner = SubclassedLearner()
    meta_model = keras_maml.MetaModel(learner, inner_steps=2)
    meta_model.compile(optimizer="adam", loss="mse")
    x, y = regression_batch()
    meta_model.fit(x, y, verbose=0)
    before = theta(meta_model)
    adapted = meta_model.adapt(x["support_x"][1], x["support_y"][1])
    assert type(adapted) is type(learner)
    np.testing.assert_allclose(
        adapted.predict(x["query_x"][1], verbose=0),
        meta_model.predict(x, verbose=0)[1],
        rtol=1e-5,
        atol=1e-6,
    )
    # The copy is independent: training it further leaves θ alone.
    adapted.compile(optimizer="sgd", loss="mse")
    adapted.fit(x["support_x"][1], x["support_y"][1], verbose=0)
    assert_same(theta(meta_model), before, rtol=0)


def test_adapt_takes_the_steps_asked_for():
    # The adapted weights against gradient descent by hand.
    x, _ = regression_batch(tasks=1)
    learner = keras.Sequential(
        [keras.Input((1,)), keras.layers.Dense(1, kernel_initializer="ones")]
    )
    meta_model = keras_maml.MetaModel(
        learner, inner_optimizer=0.1, evaluation_steps=3, inner_loss="mse"
    )
    xs, ys = x["support_x"][0].astype("float64"), x["support_y"][0]
    for steps in (None, 0, 5):
        w, b = 1.0, 0.0
        for _ in range(3 if steps is None else steps):
            error = w * xs + b - ys
            w, b = (
                w - 0.1 * 2 * np.mean(error * xs),
                b - 0.1 * 2 * np.mean(error),
            )
        adapted = meta_model.adapt(
            x["support_x"][0], x["support_y"][0], inner_steps=steps
        )
        kernel, bias = adapted.get_weights()
        np.testing.assert_allclose([kernel[0, 0], bias[0]], [w, b], rtol=1e-5)
        called = meta_model(x, inner_steps=steps)
        np.testing.assert_allclose(
            called[0], w * x["query_x"][0] + b, rtol=1e-4, atol=1e-5
        )


def test_tasks_do_not_see_one_another():
    meta_model = regression_model(inner_steps=3)
    x, _ = regression_batch(tasks=3)
    together = meta_model.predict(x, verbose=0)
    for t in range(3):
        alone = meta_model.predict(
            {k: v[t : t + 1] for k, v in x.items()}, verbose=0
        )
        np.testing.assert_allclose(together[t], alone[0], rtol=1e-5, atol=1e-6)


def test_evaluation_steps():
    x, _ = regression_batch()
    learner = small_mlp()
    two, ten, zero = (
        keras_maml.MetaModel(
            learner,
            inner_optimizer=0.1,
            inner_steps=2,
            evaluation_steps=steps,
            inner_loss="mse",
        )
        for steps in (None, 10, 0)
    )
    np.testing.assert_allclose(
        two.predict(x, verbose=0), ten(x, inner_steps=2), rtol=1e-5, atol=1e-6
    )
    assert not np.allclose(two.predict(x, verbose=0), ten.predict(x, verbose=0))
    for t in range(4):
        np.testing.assert_allclose(
            zero.predict(x, verbose=0)[t],
            learner(x["query_x"][t]),
            rtol=1e-5,
            atol=1e-6,
        )


def test_adapt_axis_moves_the_chosen_weights_only():
    x, _ = regression_batch()
    learner = small_mlp()
    head = learner.layers[-1]
    for adapt in ([head], [head.name], lambda v: "head" in v.path):
        meta_model = keras_maml.MetaModel(
            learner,
            inner_optimizer=0.1,
            adapted_weights=adapt,
            inner_loss="mse",
        )
        adapted = meta_model.adapt(x["support_x"][0], x["support_y"][0])
        moved = [
            not np.array_equal(a, b)
            for a, b in zip(adapted.get_weights(), learner.get_weights())
        ]
        assert moved == [False, False, True, True]


# Of more than five steps, all but the first are in a loop.
@pytest.mark.parametrize("steps", [1, 7])
def test_a_frozen_layer_stays(steps):
    learner = small_mlp()
    learner.layers[0].trainable = False
    meta_model = keras_maml.MetaModel(
        learner, inner_optimizer=0.1, inner_steps=steps
    )
    meta_model.compile(optimizer="adam", loss="mse")
    before = theta(meta_model)
    meta_model.fit(*regression_batch(), verbose=0)
    moved = [
        not np.array_equal(a, b) for a, b in zip(before, theta(meta_model))
    ]
    assert moved == [False, False, True, True]
    # Freezing after the fact is seen at the next compilation, as in Keras.
    learner.layers[0].trainable = True
    meta_model.compile(optimizer="adam", loss="mse")
    before = theta(meta_model)
    meta_model.fit(*regression_batch(), verbose=0)
    assert all(
        not np.array_equal(a, b) for a, b in zip(before, theta(meta_model))
    )


def test_support_weight_masks_padded_rows():
    x, y = regression_batch(support=4)
    padded = dict(x)
    for key in ("support_x", "support_y"):
        noise = np.full((4, 3, 1), 100.0, "float32")
        padded[key] = np.concatenate([x[key], noise], axis=1)
    padded["support_weight"] = np.concatenate(
        [np.ones((4, 4)), np.zeros((4, 3))], axis=1
    ).astype("float32")
    meta_model = regression_model(inner_steps=2)
    expected = meta_model.predict(x, verbose=0)
    np.testing.assert_allclose(
        meta_model.predict(padded, verbose=0), expected, rtol=1e-5, atol=1e-6
    )
    adapted = meta_model.adapt(
        padded["support_x"][0],
        padded["support_y"][0],
        support_weight=padded["support_weight"][0],
    )
    np.testing.assert_allclose(
        adapted(x["query_x"][0]), expected[0], rtol=1e-5, atol=1e-6
    )


def test_sum_reduction_of_the_inner_loss():
    # The paper's released code sums over classes: a step of the sum at rate
    # α is a step of the mean at rate 6α.
    x, _ = regression_batch()
    learner = small_mlp()
    summed = keras_maml.MetaModel(
        learner,
        inner_optimizer=0.01,
        inner_loss=keras.losses.MeanSquaredError(reduction="sum"),
    )
    mean = keras_maml.MetaModel(learner, inner_optimizer=0.06, inner_loss="mse")
    np.testing.assert_allclose(
        summed.predict(x, verbose=0),
        mean.predict(x, verbose=0),
        rtol=1e-5,
        atol=1e-6,
    )


def test_call_is_differentiable():
    meta_model = regression_model(inner_steps=2)
    x, y = regression_batch()
    variables = meta_model.learner.trainable_variables

    @tf.function
    def through_call():
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((meta_model(x) - y) ** 2)
        return tape.gradient(loss, variables)

    meta_model.evaluate(x, y, verbose=0)
    step = tf.function(
        lambda: tf.nest.flatten(
            meta_model._step((x, y), training=True)[0].mean["gradients"]
        ),
        autograph=False,
    )
    assert_same(through_call(), step(), rtol=1e-4, atol=1e-6)


def test_several_inputs_and_an_embedding():
    words = keras.Input((3,), dtype="int32", name="words")
    number = keras.Input((2,), name="number")
    embedded = keras.layers.Flatten()(keras.layers.Embedding(7, 4)(words))
    joined = keras.layers.Concatenate()([embedded, number])
    learner = keras.Model(
        {"words": words, "number": number}, keras.layers.Dense(1)(joined)
    )
    rng = np.random.default_rng(0)

    def inputs(tasks, examples):
        return {
            "words": rng.integers(0, 7, (tasks, examples, 3)).astype("int32"),
            "number": rng.standard_normal((tasks, examples, 2)).astype("f"),
        }

    x = {
        "support_x": inputs(2, 4),
        "support_y": rng.standard_normal((2, 4, 1)).astype("f"),
        "query_x": inputs(2, 5),
    }
    meta_model = keras_maml.MetaModel(learner, inner_optimizer=0.1)
    meta_model.compile(optimizer="adam", loss="mse")
    before = theta(meta_model)
    meta_model.fit(x, np.ones((2, 5, 1), "f"), verbose=0)
    assert all(
        not np.array_equal(a, b) for a, b in zip(before, theta(meta_model))
    )
    adapted = meta_model.adapt(
        {k: v[0] for k, v in x["support_x"].items()}, x["support_y"][0]
    )
    np.testing.assert_allclose(
        adapted.predict({k: v[0] for k, v in x["query_x"].items()}, verbose=0),
        meta_model.predict(x, verbose=0)[0],
        rtol=1e-5,
        atol=1e-6,
    )


def test_masked_steps_count_neither_in_the_loss_nor_in_the_metrics():
    def learner():
        keras.utils.set_random_seed(1)
        return keras.Sequential(
            [
                keras.layers.Embedding(9, 4, mask_zero=True),
                keras.layers.Dense(3),
            ]
        )

    words = np.array([[[1, 2, 0, 0], [3, 0, 0, 0]]], "int32")
    labels = np.array([[[0, 1, 2, 2], [1, 2, 2, 2]]], "int32")
    x = {"support_x": words, "support_y": labels, "query_x": words}
    compile_arguments = {
        "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "metrics": ["accuracy"],
    }
    meta_model = keras_maml.MetaModel(learner(), evaluation_steps=0)
    meta_model.compile(**compile_arguments)
    plain = learner()
    plain.compile(**compile_arguments)
    assert meta_model.evaluate(x, labels, verbose=0) == pytest.approx(
        plain.evaluate(words[0], labels[0], verbose=0)
    )


def test_several_threads_adapt_at_once():
    learner = small_mlp(batch_norm=True)
    meta_model = keras_maml.MetaModel(
        learner, inner_optimizer=0.1, inner_loss="mse"
    )
    x, _ = regression_batch(tasks=6)

    def adapted_weights(t):
        model = meta_model.adapt(x["support_x"][t], x["support_y"][t])
        return model.get_weights()

    expected = [adapted_weights(t) for t in range(6)]
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        actual = list(pool.map(adapted_weights, range(6)))
    for a, e in zip(actual, expected):
        assert_same(a, e, rtol=1e-5, atol=1e-6)
    assert learner.layers[1].momentum == 0.9


@pytest.mark.slow
def test_lora_weights_adapt_on_a_frozen_backbone(tmp_path):
    learner = keras.Sequential(
        [
            keras.Input((1,)),
            keras.layers.Dense(5, activation="tanh"),
            keras.layers.Dense(1),
        ]
    )
    backbone, head = learner.layers
    backbone.enable_lora(2)
    meta_model = keras_maml.MetaModel(
        learner, adapted_weights="lora", inner_optimizer=0.5, inner_steps=2
    )
    meta_model.compile(optimizer="adam", loss="mse")
    x, y = regression_batch()
    frozen = backbone._kernel.numpy()
    before = {v.path: v.numpy() for v in learner.trainable_variables}
    assert len(before) == 5
    meta_model.fit(x, y, batch_size=4, epochs=2, verbose=0)
    for v in learner.trainable_variables:
        assert np.any(v.numpy() != before[v.path]), v.path
    np.testing.assert_array_equal(backbone._kernel, frozen)
    adapted = meta_model.adapt(x["support_x"][0], x["support_y"][0])
    np.testing.assert_allclose(
        adapted.predict(x["query_x"][0], verbose=0),
        meta_model.predict(x, verbose=0)[0],
        rtol=1e-5,
        atol=1e-6,
    )
    assert_same(adapted.layers[1].get_weights(), head.get_weights(), rtol=0)
    # What Keras would save could not adapt any more.
    with pytest.raises(ValueError, match="merges LoRA weights"):
        meta_model.save(tmp_path / "model.keras")
    meta_model.export(tmp_path / "saved", verbose=False)
    saved = tf.saved_model.load(tmp_path / "saved")
    np.testing.assert_allclose(
        saved.serve(x["support_x"], x["support_y"], x["query_x"]),
        meta_model.predict(x, verbose=0),
        rtol=1e-5,
        atol=1e-6,
    )


def test_the_head_of_a_nested_model_is_its_last_layer():
    inner = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(3), keras.layers.Dense(1)]
    )
    learner = keras.Sequential([keras.Input((1,)), keras.layers.Dense(3)])
    learner.add(inner)
    learner.add(keras.layers.Flatten())
    assert adaptation.adapted_positions(learner, "head") == [4, 5]
    assert adaptation.adapted_positions(learner, "body") == [0, 1, 2, 3]


@pytest.mark.parametrize("eagerly", [True, False])
def test_a_frozen_layer_takes_part(eagerly):
    learner = small_mlp()
    learner.layers[0].trainable = False
    meta_model = keras_maml.MetaModel(learner, inner_optimizer=0.1)
    meta_model.compile("adam", loss="mse", run_eagerly=eagerly)
    x, y = regression_batch()
    before = theta(meta_model)
    meta_model.fit(x, y, batch_size=4, verbose=0)
    adapted = meta_model.adapt(x["support_x"][0], x["support_y"][0])
    assert_same(adapted.get_weights()[:2], before[:2], rtol=0)
    assert np.any(adapted.get_weights()[2] != before[2])
