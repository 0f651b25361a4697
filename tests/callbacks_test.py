"""The callbacks' logs."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_maml
from keras_maml.callbacks import FirstOrderUntil
from tests.sample_models import class_batch
from tests.sample_models import regression_batch
from tests.sample_models import regression_model
from tests.sample_models import small_mlp


def test_pre_adaptation_metrics(tmp_path):
    x, y = class_batch(tasks=6)
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(2)
    learner = small_mlp(2, 3)
    meta_model = keras_maml.MetaModel(
        learner, inner_optimizer=1.0, inner_steps=2
    )
    meta_model.compile(
        # Training changes nothing, so that θ is known below.
        optimizer=keras.optimizers.SGD(0.0),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    history = meta_model.fit(
        x,
        y,
        epochs=2,
        validation_data=dataset,
        callbacks=[
            keras_maml.callbacks.PreAdaptationMetrics(dataset),
            keras.callbacks.CSVLogger(tmp_path / "log.csv"),
        ],
        verbose=0,
    ).history

    def loss_and_accuracy(inputs, labels):
        logits = learner(inputs.reshape(-1, 2))
        labels = labels.reshape(-1)
        loss = keras.losses.sparse_categorical_crossentropy(
            labels, logits, from_logits=True
        )
        return np.mean(loss), np.mean(np.argmax(logits, -1) == labels)

    loss, accuracy = loss_and_accuracy(x["query_x"], y)
    support_loss, _ = loss_and_accuracy(x["support_x"], x["support_y"])
    assert history["pre_loss"] == pytest.approx([loss] * 2, rel=1e-5)
    assert history["pre_accuracy"] == pytest.approx([accuracy] * 2)
    assert history["support_loss"] == pytest.approx(
        [support_loss] * 2, rel=1e-5
    )
    assert "pre_accuracy" in (tmp_path / "log.csv").read_text()
    # The model's own evaluation is as it was.
    adapted = meta_model.evaluate(dataset, verbose=0, return_dict=True)
    assert history["val_accuracy"][-1] == pytest.approx(adapted["accuracy"])
    assert adapted["loss"] < loss
    assert meta_model.evaluation_steps is None


def test_padded_support_does_not_count():
    x, y = class_batch(tasks=2)
    kept = {k: v.copy() for k, v in x.items()}
    x["support_weight"] = np.ones(x["support_y"].shape, "float32")
    x["support_weight"][:, -1] = 0
    x["support_x"][:, -1] = 1e3
    meta_model = keras_maml.MetaModel(small_mlp(2, 3))
    meta_model.compile(
        optimizer=keras.optimizers.SGD(0.0),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    history = meta_model.fit(
        x,
        y,
        callbacks=[
            keras_maml.callbacks.PreAdaptationMetrics(
                tf.data.Dataset.from_tensors((x, y))
            )
        ],
        verbose=0,
    ).history
    losses = keras.losses.sparse_categorical_crossentropy(
        kept["support_y"],
        meta_model.learner(kept["support_x"].reshape(-1, 2))
        .numpy()
        .reshape(2, -1, 3),
        from_logits=True,
    )
    # Keras divides by the number of rows, weighted or not.
    expected = np.sum(losses[:, :-1]) / np.size(losses)
    assert history["support_loss"] == pytest.approx([expected], rel=1e-5)


def test_needs_a_finite_dataset():
    for dataset in (
        keras_maml.tasks.Sinusoid().batch(2),
        class_batch(),
    ):
        with pytest.raises(ValueError, match="finite"):
            keras_maml.callbacks.PreAdaptationMetrics(dataset)


def fit_in_orders(epochs, callbacks=(), **kwargs):
    keras.utils.set_random_seed(0)
    meta_model = regression_model(inner_steps=2, **kwargs)
    x, y = regression_batch()
    meta_model.fit(
        x,
        y,
        batch_size=4,
        epochs=epochs,
        callbacks=list(callbacks),
        verbose=0,
    )
    return meta_model


def test_first_order_until_changes_once():
    first = fit_in_orders(2, meta_gradient="first_order").get_weights()
    exact = fit_in_orders(2).get_weights()
    mixed = fit_in_orders(2, [FirstOrderUntil(1)]).get_weights()
    all_first = fit_in_orders(2, [FirstOrderUntil(2)]).get_weights()
    for a, b in zip(first, all_first):
        np.testing.assert_array_equal(a, b)
    assert any(np.any(a != b) for a, b in zip(mixed, exact))
    assert any(np.any(a != b) for a, b in zip(mixed, first))


def test_first_order_until_retraces_once_and_leaves_the_setting():
    traces = []

    class Counting(keras_maml.meta_gradients.SecondOrder):
        def __call__(self, *args):
            traces.append("exact")
            return super().__call__(*args)

    meta_model = fit_in_orders(
        4, [FirstOrderUntil(2)], meta_gradient=Counting(), task_map="loop"
    )
    assert traces == ["exact"]
    assert type(meta_model.meta_gradient) is Counting
    # What comes after `fit` is exact, also if that ended before.
    meta_model = fit_in_orders(1, [FirstOrderUntil(5)])
    assert meta_model.meta_state.meta_gradient_for_now is None


def test_first_order_until_needs_a_second_order_model():
    with pytest.raises(ValueError, match="SecondOrder"):
        fit_in_orders(1, [FirstOrderUntil(1)], meta_gradient="first_order")


def test_an_interrupted_fit_leaves_no_first_order_behind():
    class Interrupt(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise KeyboardInterrupt

    meta_model = regression_model(inner_steps=2)
    x, y = regression_batch()
    with pytest.raises(KeyboardInterrupt):
        meta_model.fit(
            x, y, callbacks=[FirstOrderUntil(3), Interrupt()], verbose=0
        )
    exact = regression_model(inner_steps=2)
    exact.learner.set_weights(meta_model.learner.get_weights())
    for model in (meta_model, exact):
        model.compile(keras.optimizers.SGD(1.0), loss="mse")
        model.fit(x, y, batch_size=4, verbose=0)
    for a, b in zip(meta_model.get_weights(), exact.get_weights()):
        np.testing.assert_allclose(a, b, rtol=1e-6)
