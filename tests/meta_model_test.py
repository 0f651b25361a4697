"""MetaModel behaves as any Keras model does."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_maml
from tests.sample_models import assert_same
from tests.sample_models import class_batch
from tests.sample_models import regression_batch
from tests.sample_models import regression_model
from tests.sample_models import small_mlp
from tests.sample_models import theta

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
    # Up to Keras 3.14, `test_on_batch` goes on with the metrics before it.
    meta_model.reset_metrics()
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
    return {
        "eager": ({"run_eagerly": True}, None),
        "jit": ({"jit_compile": True}, None),
        "four steps an execution": ({"steps_per_execution": 4}, None),
        # `tests/replicas_test.py` has several, in a process of their own.
        "one replica": ({}, lambda: tf.distribute.MirroredStrategy(["CPU:0"])),
    }


@pytest.fixture(scope="module")
def expected_run():
    """Of a graph."""
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


# In a process of its own: TensorFlow does not let the sums over replicas of two
# models in one process differ in number and size.
VECTORIZED_REPLICAS = """
import keras
import numpy as np
import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * 2,
)

import keras_maml
from tests.sample_models import class_batch

x, y = class_batch(tasks=5)
dataset = tf.data.Dataset.from_tensor_slices((x, y))


def train(data):
    # One layer: XLA compiles it for every replica.
    learner = keras.Sequential(
        [
            keras.Input((2,)),
            keras.layers.Dense(
                3, kernel_initializer=keras.initializers.GlorotUniform(0)
            ),
        ]
    )
    meta_model = keras_maml.MetaModel(learner, inner_optimizer=0.5)
    meta_model.compile(
        optimizer=keras.optimizers.SGD(0.1),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    history = meta_model.fit(data, verbose=0).history
    return meta_model.get_weights(), list(history.values())


full = dataset.batch(4, drop_remainder=True)
alone = train(full)
with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
    replicated = train(full)
    # A batch of one task leaves the second replica without any.
    uneven = train(dataset.batch(4))
for alone, replicated, uneven in zip(alone, replicated, uneven):
    for a, r, u in zip(alone, replicated, uneven, strict=True):
        np.testing.assert_allclose(a, r, rtol=1e-4, atol=1e-6)
        assert np.isfinite(u).all()
"""


@pytest.mark.slow
def test_vectorized_replicas_train_as_one_device():
    subprocess.run([sys.executable, "-c", VECTORIZED_REPLICAS], check=True)


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
        adapted_weights=["head"] if by == "name" else [head],
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
        adapted_weights=only_biases,
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
