"""Arguments of `fit`, `evaluate` and `predict` that are refused at once."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_maml
from tests.sample_models import regression_batch
from tests.sample_models import small_mlp


def compiled():
    meta_model = keras_maml.MetaModel(small_mlp(), task_map="loop")
    meta_model.compile("sgd", "mse")
    return meta_model


def endless():
    return tf.data.Dataset.from_tensors(regression_batch(tasks=2)).repeat()


@pytest.mark.parametrize(
    ("call", "limit"),
    [
        (lambda model: model.fit(endless()), "steps_per_epoch"),
        (lambda model: model.evaluate(endless()), "steps"),
        (lambda model: model.predict(endless()), "steps"),
        (
            lambda model: model.fit(
                endless(), steps_per_epoch=1, validation_data=endless()
            ),
            "validation_steps",
        ),
    ],
    ids=["fit", "evaluate", "predict", "validation"],
)
def test_an_endless_dataset_needs_a_number_of_steps(call, limit):
    with pytest.raises(ValueError, match=f"needs `{limit}`.* {limit}=None"):
        call(compiled())


def test_a_number_of_steps_ends_an_endless_dataset():
    history = compiled().fit(
        endless(),
        steps_per_epoch=1,
        validation_data=endless(),
        validation_steps=1,
        verbose=0,
    )
    assert set(history.history) == {"loss", "val_loss"}


def test_what_limits_every_epoch_is_enough():
    keras.config.set_max_steps_per_epoch(1)
    try:
        with pytest.warns(UserWarning, match="Limiting steps_per_epoch"):
            compiled().fit(endless(), verbose=0)
    finally:
        keras.config.set_max_steps_per_epoch(None)


@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_class_weights_of_arrays_are_refused(dtype):
    x, y = regression_batch(tasks=2)
    message = f"`class_weight` cannot .*class_weight={{0: 2.0}} and .*{dtype}"
    with pytest.raises(ValueError, match=message):
        compiled().fit(x, y.astype(dtype), class_weight={0: 2.0})


def test_texts_are_refused_by_name():
    x, y = regression_batch()
    meta_model = compiled()
    texts = np.full((4, 6, 1), "cat")
    wrong = {**x, "support_y": texts}
    for call, name in (
        (lambda: meta_model.fit(wrong, y), "support_y"),
        (lambda: meta_model.fit(x, texts), "y"),
        (lambda: meta_model.fit(x, y, validation_data=(wrong, y)), "support_y"),
        (lambda: meta_model.evaluate(x, [texts]), "y"),
        (lambda: meta_model.predict(wrong), "support_y"),
    ):
        with pytest.raises(ValueError, match="must hold numbers") as error:
            call()
        assert f"Received: {name} of dtype <U3" in str(error.value)
