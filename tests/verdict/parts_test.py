"""What candidates learn from: parts, rows and rates."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_maml import tasks
from keras_maml.verdict import rows
from keras_maml.verdict.parts import Part
from keras_maml.verdict.parts import parts_of
from keras_maml.verdict.plan import Plan


def table(people=10):
    rng = np.random.default_rng(0)
    return tasks.from_table(
        {
            "person": np.repeat([f"p{i}" for i in range(people)], 12),
            "x": rng.normal(size=12 * people),
            "y": rng.normal(size=12 * people),
        },
        task="person",
        target="y",
        support=3,
        query=4,
    )


def plan(**changes):
    arguments = {
        "loss": "mse",
        "metrics": [],
        "candidates": ["pooled", "maml"],
        "budget": 700,
        "trials": 3,
        "rounds": 5,
        "meta_batch_size": 4,
        "inner_steps": 3,
        "most_steps": 10,
        "outer_rates": (1e-4, 1e-2),
        "inner_rates": (1e-3, 1.0),
        "episodes": 20,
        "validation_episodes": 20,
        "normalization": "support",
    }
    return Plan(**{**arguments, **changes})


def test_the_tasks_of_a_table_are_parted():
    [parts] = parts_of(table(), None, seed=0)
    names = [set(part.tasks.names) for part in parts]
    assert [len(n) for n in names] == [6, 2, 2]
    assert len(set.union(*names)) == 10
    assert parts_of(table(), None, seed=1)[0].test.tasks.names != list(names[2])


@pytest.mark.parametrize("folds", [2, 3, 5, 10])
def test_each_task_is_tested_once(folds):
    tested = []
    for parts in parts_of(table(), folds, seed=0):
        names = [set(part.tasks.names) for part in parts]
        assert len(set.union(*names)) == 10
        assert sum(map(len, names)) == 10
        tested += names[2]
    assert sorted(tested) == sorted(table().names)


def test_a_distribution_without_an_end_gives_other_episodes():
    sines = tasks.Sinusoid()
    [parts] = parts_of(sines, None, seed=0)
    x, y = next(iter(parts.test.batch(2, after=3)))
    np.testing.assert_array_equal(y[0], sines.episode((1 << 41) + 6)[1])
    assert parts.train == Part(sines, 0)


def test_parts_may_be_given():
    three = [tasks.Sinusoid(seed=seed) for seed in range(3)]
    [parts] = parts_of(tuple(three), None, seed=0)
    assert [part.tasks for part in parts] == three
    folds = parts_of([tuple(three), tuple(three[::-1])], None, seed=0)
    assert [fold.test.tasks for fold in folds] == [three[2], three[0]]
    for wrong in (tuple(three[:2]), [], [tuple(three), tuple(three[:2])]):
        with pytest.raises(ValueError, match="or a list of such tuples"):
            parts_of(wrong, None, seed=0)
    with pytest.raises(ValueError, match="`folds` needs one table"):
        parts_of(tuple(three), 2, seed=0)
    with pytest.raises(ValueError, match="`folds` needs one table"):
        parts_of(tasks.Sinusoid(), 2, seed=0)


def test_a_checksum_knows_an_episode_again():
    first = Part(tasks.Sinusoid(seed=0)).checksum()
    assert Part(tasks.Sinusoid(seed=0)).checksum() == first
    assert Part(tasks.Sinusoid(seed=1)).checksum() != first
    assert Part(tasks.Sinusoid(seed=0), start=1).checksum() != first


def test_a_checksum_knows_texts():
    class Texts:
        def __init__(self, text):
            self._text = text

        def episode(self, index):
            return {"support_x": np.array([self._text], object)}, np.zeros(1)

    first = Part(Texts(b"one")).checksum()
    assert Part(Texts(b"one")).checksum() == first
    assert Part(Texts(b"two")).checksum() != first


def test_episodes_that_share_classes_are_refused():
    pool = tasks.from_arrays(np.zeros((12, 2)), np.repeat(np.arange(4), 3))
    with pytest.raises(ValueError, match="share tasks or classes"):
        parts_of(pool.episodes(2, 1, 1), None, seed=0)


def test_rows():
    x = {
        "support_x": tf.reshape(tf.range(12.0), [2, 3, 2]),
        "support_y": tf.constant([[0, 1, 2], [3, 4, 5]]),
        "query_x": -tf.reshape(tf.range(8.0), [2, 2, 2]),
    }
    y = tf.constant([[6, 7], [8, 9]])
    inputs, targets = rows.all_rows(x, y)
    assert targets.numpy().tolist() == [0, 1, 2, 6, 7, 3, 4, 5, 8, 9]
    assert inputs[:, 0].numpy().tolist() == [0, 2, 4, 0, -2, 6, 8, 10, -4, -6]
    weight = tf.constant([[1.0, 0.0], [0.5, 1.0]])
    *_, weights = rows.all_rows(x, y, weight)
    assert weights.numpy().tolist() == [1, 1, 1, 1, 0, 1, 1, 1, 0.5, 1]
    x["support_weight"] = tf.constant([[1.0, 1, 0], [1, 0, 0]])
    *_, weights = rows.all_rows(x, y, tf.constant([[1.0], [0.5]]))
    assert weights.numpy().tolist() == [1, 1, 0, 1, 1, 1, 0, 0, 0.5, 0.5]
    inputs, targets, weights = rows.query_rows(x, y, weight)
    assert targets.numpy().tolist() == [6, 7, 8, 9]
    assert inputs[:, 1].numpy().tolist() == [-1, -3, -5, -7]
    assert weights.numpy().tolist() == [1, 0, 0.5, 1]
    assert len(rows.query_rows(x, y)) == 2


def test_rates_are_spread():
    rates = np.array([plan().rates(trial) for trial in range(3)])
    np.testing.assert_allclose(
        rates[:, 0], [1e-3, 10**-3.5, 10**-2.5], rtol=1e-6
    )
    np.testing.assert_allclose(
        rates[:, 1], [1e-2, 1e-1, 10 ** (-3 + 1 / 3)], rtol=1e-6
    )


def test_the_budget_counts_gradients():
    assert plan().steps_of_a_round(1) * 5 == 700
    assert plan().steps_of_a_round(7) * 5 == 100
    assert plan(budget=1).steps_of_a_round(7) == 1


def test_the_metric_that_decides():
    assert plan().main_metric() == ("loss", "down")
    assert plan(metrics=["accuracy"]).main_metric() == ("accuracy", "up")
    metric = keras.metrics.MeanAbsoluteError(name="error")
    assert plan(metrics=[metric, "mse"]).main_metric() == ("error", "down")
    assert plan(metrics=[metric]).new_metrics()[0] is not metric
    with pytest.raises(ValueError, match="`metrics` must begin"):
        plan(metrics=[lambda y, y_pred: 0.0]).main_metric()
