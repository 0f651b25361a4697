"""MetaModel behaves as any Keras model does, and as MAML."""

import concurrent.futures

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_maml
from tests.sample_models import SubclassedLearner
from tests.sample_models import class_batch
from tests.sample_models import regression_batch
from tests.sample_models import small_mlp


def regression_model(**kwargs):
    meta_model = keras_maml.MetaModel(
        small_mlp(), **{"inner_optimizer": 0.1, **kwargs}
    )
    meta_model.compile(optimizer="adam", loss="mse", metrics=["mae"])
    return meta_model


def theta(meta_model):
    return [w.copy() for w in meta_model.learner.get_weights()]


def assert_same(a, b, **kwargs):
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(x, y, **kwargs)


# -- What Keras promises


def test_fit_evaluate_predict_with_arrays():
    meta_model = regression_model()
    x, y = regression_batch(tasks=8)
    before = meta_model.evaluate(x, y, verbose=0)
    history = meta_model.fit(
        x,
        y,
        batch_size=4,
        epochs=2,
        validation_data=regression_batch(tasks=3, seed=1),
        verbose=0,
    )
    assert set(history.history) == {"loss", "mae", "val_loss", "val_mae"}
    assert len(history.history["loss"]) == 2
    loss, mae = meta_model.evaluate(x, y, batch_size=3, verbose=0)
    assert loss < before[0]
    # The logged loss and metric are those of the predictions.
    predictions = meta_model.predict(x, batch_size=3, verbose=0)
    assert predictions.shape == (8, 5, 1)
    assert loss == pytest.approx(np.mean((predictions - y) ** 2), rel=1e-5)
    assert mae == pytest.approx(np.mean(np.abs(predictions - y)), rel=1e-5)


def test_the_logged_training_loss_is_that_of_the_adapted_model():
    meta_model = regression_model()
    x, y = regression_batch()
    expected = meta_model.evaluate(x, y, verbose=0, return_dict=True)
    actual = meta_model.train_on_batch(x, y, return_dict=True)
    assert actual == pytest.approx(expected, rel=1e-5)


def test_batch_methods_and_validation_split():
    meta_model = regression_model()
    x, y = regression_batch()
    meta_model.train_on_batch(x, y)
    tested = meta_model.test_on_batch(x, y, return_dict=True)
    predictions = meta_model.predict_on_batch(x)
    assert tested["loss"] == pytest.approx(
        np.mean((predictions - y) ** 2), rel=1e-5
    )
    logs = meta_model.fit(x, y, validation_split=0.5, verbose=0).history
    assert "val_loss" in logs


def test_callbacks_see_epochs_batches_and_logs(tmp_path):
    class Count(keras.callbacks.Callback):
        batches = 0

        def on_train_batch_end(self, batch, logs=None):
            self.batches += 1
            assert set(logs) == {"loss", "mae"}

    meta_model = regression_model()
    x, y = regression_batch(tasks=8)
    count = Count()
    history = meta_model.fit(
        x,
        y,
        batch_size=2,
        epochs=20,
        validation_data=(x, y),
        callbacks=[
            count,
            keras.callbacks.EarlyStopping(patience=0, min_delta=1e9),
            keras.callbacks.ModelCheckpoint(tmp_path / "best.keras"),
            keras.callbacks.CSVLogger(tmp_path / "log.csv"),
        ],
        verbose=0,
    )
    assert len(history.epoch) == 2
    assert count.batches == 8
    loaded = keras.models.load_model(tmp_path / "best.keras")
    np.testing.assert_array_equal(
        loaded.predict(x, verbose=0), meta_model.predict(x, verbose=0)
    )
    assert (tmp_path / "log.csv").read_text().startswith("epoch,loss,mae")


@pytest.mark.parametrize("shape", ["query", "task"])
def test_sample_weight(shape):
    x, y = regression_batch()
    rng = np.random.default_rng(5)
    weight = rng.uniform(0, 2, (4, 5 if shape == "query" else 1))
    weight = weight.astype("float32")
    meta_model = regression_model()
    predictions = meta_model.predict(x, verbose=0)
    expected = np.mean(((predictions - y) ** 2)[..., 0] * weight)
    actual = meta_model.evaluate(x, y, sample_weight=weight, verbose=0)
    assert actual[0] == pytest.approx(expected, rel=1e-5)
    trained = meta_model.fit(x, y, sample_weight=weight, verbose=0).history
    assert trained["loss"][0] == pytest.approx(expected, rel=1e-5)


def test_a_task_of_weight_zero_does_not_train():
    x, y = regression_batch(tasks=2)
    a, b = regression_model(), regression_model()
    weight = np.array([[1.0], [0.0]], "float32")
    a.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse")
    b.compile(optimizer=keras.optimizers.SGD(0.05), loss="mse")
    a.fit(x, y, sample_weight=weight, verbose=0)
    b.fit({k: v[:1] for k, v in x.items()}, y[:1], verbose=0)
    assert_same(theta(a), theta(b), rtol=1e-5)


def test_weighted_metrics():
    x, y = regression_batch()
    weight = np.array([[1.0], [0.0], [3.0], [0.5]], "float32")
    meta_model = regression_model()
    meta_model.compile(loss="mse", weighted_metrics=["mae"])
    errors = np.abs(meta_model.predict(x, verbose=0) - y)[..., 0]
    logs = meta_model.evaluate(
        x, y, sample_weight=weight, verbose=0, return_dict=True
    )
    expected = np.sum(errors * weight) / (np.sum(weight) * errors.shape[1])
    assert logs["mae"] == pytest.approx(expected, rel=1e-5)


def test_compiled_loss_objects_metrics_and_integer_labels():
    meta_model = keras_maml.MetaModel(
        small_mlp(2, 3), inner_optimizer=1.0, inner_steps=2
    )
    meta_model.compile(
        optimizer=keras.optimizers.Adam(1e-2),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    x, y = class_batch()
    history = meta_model.fit(x, y, epochs=30, verbose=0).history
    predicted = np.argmax(meta_model.predict(x, verbose=0), -1)
    assert meta_model.evaluate(x, y, verbose=0)[1] == pytest.approx(
        np.mean(predicted == y)
    )
    assert history["accuracy"][-1] > history["accuracy"][0]


def runs():
    def strategy(replicas):
        return tf.distribute.MirroredStrategy(
            [f"CPU:{i}" for i in range(replicas)]
        )

    return {
        "eager": ({"run_eagerly": True}, None),
        "graph": ({}, None),
        "jit": ({"jit_compile": True}, None),
        "four steps an execution": ({"steps_per_execution": 4}, None),
        "one replica": ({}, lambda: strategy(1)),
        "two replicas": ({}, lambda: strategy(2)),
    }


@pytest.fixture(scope="module")
def expected_run():
    return train_four_steps({}, None)


def train_four_steps(compile_arguments, make_strategy):
    x, y = class_batch(tasks=16)
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(
        4, drop_remainder=True
    )

    def train():
        meta_model = keras_maml.MetaModel(
            small_mlp(2, 3, batch_norm=True),
            inner_optimizer=0.5,
            inner_steps=2,
        )
        meta_model.compile(
            # Not Adam: it makes a full step of the rounding error that is the
            # gradient of a bias before batch normalisation.
            optimizer=keras.optimizers.SGD(0.1),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            **compile_arguments,
        )
        history = meta_model.fit(dataset, verbose=0, epochs=1).history
        logs = meta_model.evaluate(dataset, verbose=0)
        return meta_model.get_weights(), history, logs

    if make_strategy is None:
        return train()
    with make_strategy().scope():
        return train()


@pytest.mark.parametrize("name", runs())
def test_every_way_of_running_gives_the_same(name, expected_run):
    weights, history, logs = train_four_steps(*runs()[name])
    # Moving averages are among the weights.
    assert_same(weights, expected_run[0], rtol=1e-4, atol=1e-5)
    assert history["loss"] == pytest.approx(expected_run[1]["loss"], rel=1e-4)
    assert history["accuracy"] == pytest.approx(expected_run[1]["accuracy"])
    assert logs == pytest.approx(expected_run[2], rel=1e-4)


def test_a_replica_without_tasks_is_harmless():
    # Five tasks in batches of four leave the second replica without any.
    x, y = class_batch(tasks=5)
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(4)

    def train():
        meta_model = keras_maml.MetaModel(
            small_mlp(2, 3, batch_norm=True), inner_optimizer=0.5
        )
        meta_model.compile(
            optimizer=keras.optimizers.SGD(0.1),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        meta_model.fit(dataset, verbose=0)
        return meta_model.learner

    alone = train()
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        replicated = train()
    assert all(np.all(np.isfinite(w)) for w in replicated.get_weights())
    # Keras halves the loss of a batch that only one replica has, so the
    # weights differ; the statistics are those of the one task.
    np.testing.assert_allclose(
        alone.layers[1].moving_variance,
        replicated.layers[1].moving_variance,
        rtol=1e-2,
    )


def test_same_seed_same_run():
    results = []
    for _ in range(2):
        keras.utils.set_random_seed(7)
        learner = keras.Sequential(
            [
                keras.Input((1,)),
                keras.layers.Dense(8, activation="relu"),
                keras.layers.Dropout(0.5),
                keras.layers.Dense(1),
            ]
        )
        meta_model = keras_maml.MetaModel(learner)
        meta_model.compile(optimizer="adam", loss="mse")
        meta_model.fit(*regression_batch(tasks=8), batch_size=4, verbose=0)
        results.append(theta(meta_model))
    for a, b in zip(*results):
        np.testing.assert_array_equal(a, b)


# -- Saving


def settings(meta_model):
    """The configuration; the learner's holds ids of objects in memory."""
    config = meta_model.get_config()
    del config["learner"]
    return config


@pytest.mark.parametrize("by", ["name", "layer"])
def test_save_load_and_go_on_training(by, tmp_path):
    x, y = regression_batch()
    learner = small_mlp()
    head = learner.layers[-1]
    once = keras_maml.MetaModel(
        learner,
        inner_optimizer=0.1,
        inner_steps=2,
        adapt=["head"] if by == "name" else [head],
    )
    once.compile(optimizer="adam", loss="mse")
    once.fit(x, y, epochs=2, verbose=0)
    once.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert settings(again) == settings(once)
    np.testing.assert_array_equal(
        again.predict(x, verbose=0), once.predict(x, verbose=0)
    )
    # The optimizer's state came along: both go on in the same way.
    once.fit(x, y, epochs=2, verbose=0)
    again.fit(x, y, epochs=2, verbose=0)
    assert_same(theta(once), theta(again), rtol=1e-6)


def test_settings_survive_saving(tmp_path):
    @keras.saving.register_keras_serializable(package="keras_maml_tests")
    def only_biases(variable):
        return variable.name == "bias"

    meta_model = keras_maml.MetaModel(
        small_mlp(),
        inner_optimizer=keras_maml.inner_optimizers.SGD(0.3),
        inner_steps=2,
        meta_gradient="first_order",
        adapt=only_biases,
        inner_loss=keras.losses.MeanSquaredError(reduction="sum"),
        normalization="support",
        evaluation_steps=4,
        task_parallelism=3,
        name="settings",
    )
    meta_model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert settings(loaded) == settings(meta_model)
    assert loaded.inner_optimizer.learning_rate == 0.3
    assert not loaded.meta_gradient.second_order
    assert loaded.inner_loss.get_config() == meta_model.inner_loss.get_config()
    x, _ = regression_batch()
    np.testing.assert_array_equal(
        loaded.predict(x, verbose=0), meta_model.predict(x, verbose=0)
    )


def test_save_weights(tmp_path):
    x, y = regression_batch()
    a = regression_model()
    a.fit(x, y, verbose=0)
    a.save_weights(tmp_path / "a.weights.h5")
    b = keras_maml.MetaModel(
        small_mlp(seed=9), inner_optimizer=0.1, inner_loss="mse"
    )
    b.load_weights(tmp_path / "a.weights.h5")
    np.testing.assert_array_equal(
        a.predict(x, verbose=0), b.predict(x, verbose=0)
    )


def test_clone_model_and_summary():
    meta_model = regression_model(inner_steps=3)
    copy = keras.models.clone_model(meta_model)
    assert settings(copy) == settings(meta_model)
    assert copy.learner is not meta_model.learner
    lines = []
    meta_model.summary(print_fn=lines.append)
    assert "Total params: 16" in "\n".join(lines)


# -- What adapts


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
            learner, inner_optimizer=0.1, adapt=adapt, inner_loss="mse"
        )
        adapted = meta_model.adapt(x["support_x"][0], x["support_y"][0])
        moved = [
            not np.array_equal(a, b)
            for a, b in zip(adapted.get_weights(), learner.get_weights())
        ]
        assert moved == [False, False, True, True]


def test_a_frozen_layer_stays():
    learner = small_mlp()
    learner.layers[0].trainable = False
    meta_model = keras_maml.MetaModel(learner, inner_optimizer=0.1)
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
        lambda: meta_model._step((x, y), training=True)[0]["gradients"],
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


# -- Dropout and other state


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
