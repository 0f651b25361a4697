"""should_i_adapt: a small one that is interrupted, and three true cases."""

import pathlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_maml
from keras_maml import tasks
from keras_maml.verdict import candidates
from tests.verdict import cases

CHECKOUT = pathlib.Path(__file__).absolute().parents[2]
SMALL = {
    "loss": "mse",
    "candidates": ["own", "pooled", "fine-tuned"],
    "budget": 15,
    "trials": 2,
    "meta_batch_size": 2,
    "inner_steps": 1,
    "most_steps": 2,
    "episodes": 20,
    "verbose": 0,
}


def line():
    return keras.Sequential([keras.Input([1]), keras.layers.Dense(1)])


def refuse(fold, *_):
    raise KeyboardInterrupt


@pytest.mark.slow
def test_it_goes_on_after_an_interruption(tmp_path, monkeypatch):
    arguments = (line(), tasks.Sinusoid())
    with monkeypatch.context() as patch:
        patch.setattr(candidates, "fine_tuned", refuse)
        with pytest.raises(KeyboardInterrupt):
            keras_maml.should_i_adapt(*arguments, **SMALL, folder=tmp_path)
    monkeypatch.setattr(candidates, "pooled", refuse)
    monkeypatch.setattr(candidates, "own", refuse)
    verdict = keras_maml.should_i_adapt(*arguments, **SMALL, folder=tmp_path)
    assert list(verdict.reports) == ["pooled", "own", "fine-tuned"]
    assert not list(tmp_path.glob("*.resume*"))
    pooled = verdict.reports["pooled"]
    assert pooled.facts["training_steps"] == 15
    assert pooled.episodes.tolist() == list(range(1 << 41, (1 << 41) + 20))
    # The tests are those of the weights that are kept.
    learner = line()
    with np.load(tmp_path / "fold_0_pooled.npz") as weights:
        learner.set_weights([weights["arr_0"], weights["arr_1"]])
    x, y = tasks.Sinusoid().episode((1 << 41) + 4)
    error = np.mean((learner(x["query_x"]).numpy() - y) ** 2)
    np.testing.assert_allclose(pooled.values()[4], error, rtol=1e-5)
    with pytest.raises(ValueError, match="`budget` was 15"):
        keras_maml.should_i_adapt(
            *arguments, **{**SMALL, "budget": 20}, folder=tmp_path
        )
    with pytest.raises(ValueError, match="`tasks` was"):
        keras_maml.should_i_adapt(
            arguments[0], tasks.Sinusoid(seed=1), **SMALL, folder=tmp_path
        )
    with pytest.raises(ValueError, match="`learner` was"):
        keras_maml.should_i_adapt(
            keras_maml.learners.mlp(hidden_units=(3,)),
            arguments[1],
            **SMALL,
            folder=tmp_path,
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": 0}, "`budget`"),
        ({"candidates": ["pooled"]}, "`candidates` must have"),
        ({"candidates": ["own", "maml"]}, "`candidates` must have"),
        ({"candidates": ["pooled", "best"]}, "`candidates` must be one of"),
        ({"trials": 0}, "`trials`"),
        ({"inner_rates": (0.0, 1.0)}, "`inner_rates` must be above 0"),
        ({"outer_rates": (1.0, 0.1)}, "`outer_rates`"),
        ({"episodes": 1}, "`episodes`"),
        ({"folds": 1}, "`folds`"),
        ({"seed": -1}, "`seed`"),
    ],
)
def test_bad_arguments(changes, message):
    with pytest.raises(ValueError, match=message):
        keras_maml.should_i_adapt(
            line(), tasks.Sinusoid(), **{**SMALL, **changes}
        )


def test_a_learner_must_be_one():
    with pytest.raises(ValueError, match="`learner` must be"):
        keras_maml.should_i_adapt(lambda train: 3, tasks.Sinusoid(), **SMALL)


@pytest.mark.slow
def test_the_page_says_to_adapt_to_sine_waves():
    text = (CHECKOUT / "docs/should_i_adapt.md").read_text(encoding="utf-8")
    block, *_ = re.findall(r"```py\n(.*?)```", text, re.DOTALL)
    names = {}
    exec(compile(block, "should_i_adapt.md", "exec"), names)
    verdict = names["verdict"]
    assert verdict.answer == "yes"
    assert verdict.choice == "maml"
    assert verdict.gains["maml"] > 0.8


@pytest.mark.slow
@pytest.mark.parametrize("case", [cases.equal_tasks, cases.explained_tasks])
def test_there_is_nothing_to_adapt_to(case):
    verdict = keras_maml.should_i_adapt(
        *case(), loss="mse", budget=4200, trials=3, most_steps=30, episodes=100
    )
    print(verdict)
    assert (verdict.answer, verdict.choice) == ("no", "pooled")
    # What is left is the noise.
    error = verdict.reports["pooled"].summary().mean
    assert error == pytest.approx(cases.NOISE**2, rel=0.25)


@pytest.mark.slow
def test_classes_of_unequal_tasks_in_folds(tmp_path):
    """Each person has an order of the classes of its own."""
    rng = np.random.default_rng(0)
    people = np.repeat(np.arange(8), rng.integers(20, 40, 8))
    x = rng.normal(size=(len(people), 2)).astype("float32")
    labels = (x[:, 0] > 0).astype(int) ^ (people % 2)
    table = tasks.from_table(
        {"person": people, "x": x[:, 0], "z": x[:, 1], "label": labels},
        task="person",
        target="label",
        kind="classification",
        support=(8, 12),
        query=(5, None),
    )

    def learner(train):
        return keras.Sequential(
            [
                keras.Input([2]),
                train.normalization(),
                keras.layers.Dense(16),
                keras.layers.BatchNormalization(),
                keras.layers.ReLU(),
                keras.layers.Dense(2),
            ]
        )

    verdict = keras_maml.should_i_adapt(
        learner,
        table,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        budget=350,
        trials=2,
        meta_batch_size=4,
        most_steps=10,
        episodes=32,
        folds=2,
        folder=tmp_path,
    )
    assert list(verdict.reports) == list(candidates.NAMES)
    assert {n for names in verdict.reports["maml"].tasks for n in names} == {
        str(person) for person in range(8)
    }
    assert verdict.answer == "yes"
    assert "of 8 tasks" in str(verdict)
    assert verdict.reports["pooled"].summary().mean < 0.7
    x, *_ = table.episode(0)
    verdict.model.export(tmp_path / "model", verbose=False)
    served = tf.saved_model.load(str(tmp_path / "model"))
    names = ("support_x", "support_y", "query_x")
    outputs = served.serve(*(x[name][None] for name in names))
    assert outputs.shape == (1, len(x["query_x"]), 2)
