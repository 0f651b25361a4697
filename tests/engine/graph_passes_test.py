"""Tests which steps TensorFlow improves by few passes."""

import contextlib

import keras
import numpy as np
import pytest

import keras_maml
from keras_maml import devices
from keras_maml import tensorflow_internals
from keras_maml.engine import graph_passes


@pytest.fixture
def entered(monkeypatch):
    """Grows by one item for each call that runs with few passes."""
    monkeypatch.setattr(devices, "accelerators", list)
    times = []

    @contextlib.contextmanager
    def few_graph_passes():
        times.append(1)
        yield

    monkeypatch.setattr(
        tensorflow_internals, "few_graph_passes", few_graph_passes
    )
    return times


def learner_of(layers):
    return keras.Sequential(
        [keras.Input((1,)), *(keras.layers.Dense(1) for _ in range(layers))]
    )


@pytest.mark.parametrize(("layers", "is_large"), [(50, False), (51, True)])
def test_more_than_100_weights_are_many(layers, is_large, entered):
    function = graph_passes.for_large_graphs(
        lambda x: x + 1, learner_of(layers)
    )
    assert function(1) == 2
    assert bool(entered) == is_large


def test_an_accelerator_keeps_all_passes(entered, monkeypatch):
    monkeypatch.setattr(devices, "accelerators", lambda: ["GPU:0"])
    function = graph_passes.for_large_graphs(lambda x: x + 1, learner_of(51))
    assert function(1) == 2
    assert not entered


def test_steps_of_fit_and_evaluate_ask(entered, monkeypatch):
    monkeypatch.setattr(graph_passes, "_MANY_WEIGHTS", 1)
    meta_model = keras_maml.algorithms.maml(learner_of(1), 0.1, 1)
    meta_model.compile("sgd", "mse")
    ones = np.ones((2, 3, 1), "float32")
    x = {"support_x": ones, "support_y": ones, "query_x": ones}
    meta_model.train_on_batch(x, ones)
    assert len(entered) == 1
    meta_model.test_on_batch(x, ones)
    assert len(entered) == 2
