"""Which form the inner steps have in a graph."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_maml
from keras_maml.engine import inner_forms
from keras_maml.engine.inner_forms import inner_form
from tests.sample_models import class_batch

PLAIN = keras.Sequential([keras.Input((3,)), layers.Dense(1)])
LSTM = keras.Sequential(
    [
        keras.Input((4, 3)),
        layers.Bidirectional(layers.LSTM(2, use_cudnn=False)),
        layers.Dense(1),
    ]
)


@pytest.mark.parametrize(
    ("learner", "adapted", "steps", "rematerialize", "trace_once", "form"),
    [
        (PLAIN, 18, 5, False, True, "unrolled"),
        (PLAIN, 158, 2, False, True, "traced_once"),
        (PLAIN, 158, 2, False, False, "unrolled"),
        (PLAIN, 158, 6, False, True, "rematerialized"),
        (PLAIN, 2, 1, True, True, "rematerialized"),
        (LSTM, 8, 2, False, True, "traced_once"),
    ],
)
def test_form(learner, adapted, steps, rematerialize, trace_once, form):
    found = inner_form(learner, adapted, steps, rematerialize, trace_once)
    assert found == form


@pytest.mark.parametrize("second_order", [True, False])
def test_training_is_the_same_in_both_forms(second_order, monkeypatch):
    # The meta-gradient, moving averages and seeds of dropout.
    x, y = class_batch(tasks=2)
    results = []
    for limit in (0, 100):
        monkeypatch.setattr(inner_forms, "_MAX_UNROLLED_WEIGHTS", limit)
        keras.utils.clear_session(free_memory=False)
        keras.utils.set_random_seed(0)
        learner = keras.Sequential(
            [
                keras.Input(x["support_x"].shape[2:]),
                layers.Dense(4, activation="relu"),
                layers.BatchNormalization(),
                layers.Dropout(0.5),
                layers.Dense(3),
            ]
        )
        meta_model = keras_maml.MetaModel(
            learner,
            inner_optimizer=0.3,
            inner_steps=2,
            meta_gradient="second_order" if second_order else "first_order",
        )
        meta_model.compile(
            keras.optimizers.SGD(1.0),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        meta_model.train_on_batch(x, y)
        results.append([np.asarray(v, "float64") for v in learner.variables])
    for traced_once, unrolled in zip(*results, strict=True):
        np.testing.assert_allclose(traced_once, unrolled, atol=1e-5)
