"""Datasets lose TensorFlow's autotuner, unless their user has set it."""

import numpy as np
import pytest
import tensorflow as tf

import keras_maml
from keras_maml.engine.autotuner import without_autotuner
from tests.sample_models import regression_batch
from tests.sample_models import small_mlp


def numbers():
    return tf.data.Dataset.range(7)


def test_a_dataset_has_the_same_elements():
    tuned = numbers().map(lambda n: n * 2, num_parallel_calls=tf.data.AUTOTUNE)
    dataset = without_autotuner(tuned)
    assert dataset.options().autotune.enabled is False
    assert dataset.cardinality() == 7
    assert dataset.element_spec == tuned.element_spec
    assert list(dataset.as_numpy_iterator()) == list(range(0, 14, 2))


def test_other_options_stay():
    options = tf.data.Options()
    options.deterministic = False
    options.threading.private_threadpool_size = 3
    dataset = without_autotuner(numbers().with_options(options))
    assert dataset.options().deterministic is False
    assert dataset.options().threading.private_threadpool_size == 3


@pytest.mark.parametrize(
    ("name", "value"),
    [("enabled", True), ("enabled", False), ("cpu_budget", 2)],
)
def test_what_the_user_has_set_stays(name, value):
    options = tf.data.Options()
    setattr(options.autotune, name, value)
    dataset = numbers().with_options(options)
    assert without_autotuner(dataset) is dataset


def test_what_is_no_dataset_of_a_user_stays():
    array = np.ones(3)
    assert without_autotuner(array) is array
    stream = keras_maml.tasks.Sinusoid().batch(2)
    assert without_autotuner(stream) is stream


@pytest.mark.parametrize("method", ["fit", "evaluate", "predict"])
def test_keras_gets_the_dataset_without_autotuner(method, monkeypatch):
    seen = []
    meta_model = keras_maml.MetaModel(small_mlp(), task_map="loop")
    meta_model.compile("sgd", "mse")
    # Of the class of Keras, which MetaModel calls.
    monkeypatch.setattr(
        f"keras.Model.{method}", lambda self, x, **kwargs: seen.append(x)
    )
    getattr(meta_model, method)(
        tf.data.Dataset.from_tensors(regression_batch(tasks=2))
    )
    assert seen[0].options().autotune.enabled is False
