"""Intervals and sets of stated coverage."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_maml
from keras_maml.evaluation import conformal
from keras_maml.evaluation import folds
from tests.sample_models import class_batch
from tests.sample_models import regression_batch
from tests.sample_models import small_mlp


def task(batch):
    x, _ = batch
    return {key: value[0] for key, value in x.items()}


def test_intervals_by_hand():
    # Two folds of two examples. Their models predict 1 and 2, that of all
    # examples predicts 5.
    outputs = np.array([[1.0] * 5, [2.0] * 5, [5.0] * 5])[..., np.newaxis]
    support_y = np.array([1.5, 2.25, 4.0, 0.0])  # residuals 0.5, 1.25, 2, 2
    fold_of = np.array([0, 0, 1, 1])
    rank = folds.rank(4, 0.4)
    assert (rank.position, rank.coverage) == (3, 0.6)
    result = conformal.intervals(outputs, support_y, fold_of, rank)
    assert result.prediction.tolist() == [[5]]
    # Of 0.5, -0.25, 0 and 0 the second, of 1.5, 2.25, 4 and 4 the third.
    assert result.low.tolist() == [[0]]
    assert result.high.tolist() == [[4]]
    assert result.sets is None


def test_sets_by_hand():
    # Three examples of class 0 and 1, each a fold, and one query.
    first, second = [0.7, 0.2, 0.1], [0.3, 0.4, 0.3]
    outputs = np.array([[first] * 4, [second] * 4, [first] * 4, [first] * 4])
    labels = np.array([0, 1, 0])  # the truth has 0.7, 0.4 and 0.7
    rank = folds.rank(3, 0.5)
    assert rank.position == 2
    result = conformal.sets(outputs, labels, np.arange(3), rank)
    # Less probable than the truth of 1, 2 and 3 examples: only 0.3 for 0.4;
    # 0.2 for 0.7, twice; all.
    assert result.sets.tolist() == [[True, False, False]]
    np.testing.assert_allclose(result.prediction, [first])


def test_coverage_of_the_mean_as_a_learner():
    random = np.random.default_rng(0)
    rank = folds.rank(9, 0.1)
    values = random.normal(size=(3000, 10))
    hits = []
    for y in values:
        means = (y[:9].sum() - y[:9]) / 8
        outputs = np.repeat([*means, y[:9].mean()], 10).reshape(10, 10)
        result = conformal.intervals(outputs, y[:9], np.arange(9), rank)
        hits.append(result.low[0] <= y[9] <= result.high[0])
    assert rank.coverage == 0.9
    # Two standard errors are 0.011.
    assert np.mean(hits) == pytest.approx(0.9, abs=0.011)


@pytest.mark.parametrize(
    ("examples", "number", "guarantee"),
    [
        # Theorem 1: 1 - 2 α.
        (9, 9, 0.8),
        (19, None, 0.8),
        # Theorem 4: there are 10 folds, or 3.
        (9, 3, 0.8 - (1 - 3 / 9) / 4),
        (59, None, 0.8 - (1 - 10 / 59) / 11),
    ],
)
def test_guarantee(examples, number, guarantee):
    fold_of = folds.assign(examples, None, number)
    rank = folds.rank(examples, 0.1)
    assert rank.coverage == pytest.approx(0.9)
    assert rank.guarantee(fold_of) == pytest.approx(guarantee)


def test_folds():
    assert folds.assign(5, None, 2).tolist() == [0, 1, 0, 1, 0]
    labels = np.array([2, 0, 2, 0, 2, 0, 0])
    assert folds.assign(7, labels, None).tolist() == [0, 0, 1, 1, 2, 2, 0]
    assert folds.assign(7, labels, 2).tolist() == [0, 0, 1, 1, 0, 0, 1]


def test_each_fold_is_learned_from_the_other_examples():
    meta_model = keras_maml.MetaModel(
        small_mlp(), inner_optimizer=0.1, inner_steps=2, inner_loss="mse"
    )
    x = task(regression_batch(support=6, query=2))
    meta_model.build({"query_x": (1, 2, 1)})
    fold_of = np.array([0, 1, 2, 0, 1, 2])
    tasks = {key: tf.constant(value[None]) for key, value in x.items()}
    outputs = conformal.fold_outputs(meta_model, tasks, fold_of)
    assert outputs.shape == (1, 4, 8, 1)
    both = np.concatenate([x["support_x"], x["query_x"]])
    for fold, kept in enumerate([fold_of != 0, fold_of != 1, fold_of != 2]):
        model = meta_model.adapt(x["support_x"][kept], x["support_y"][kept])
        np.testing.assert_allclose(outputs[0, fold], model(both), atol=1e-6)
    result = keras_maml.conformal_prediction(
        meta_model, **x, miscoverage=0.4, folds=3
    )
    np.testing.assert_allclose(
        result.prediction,
        meta_model({k: v[None] for k, v in x.items()})[0],
        atol=1e-6,
    )
    assert (result.low < result.high).all()
    assert result.coverage == 5 / 7


def test_classes_are_predicted_as_by_the_adapted_model():
    meta_model = keras_maml.MetaModel(
        small_mlp(2, 3, batch_norm=True), inner_optimizer=0.5
    )
    meta_model.compile(
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    x = task(class_batch(k_shot=3))
    result = keras_maml.conformal_prediction(meta_model, **x)
    adapted = meta_model.adapt(x["support_x"], x["support_y"])
    np.testing.assert_allclose(
        result.prediction,
        keras.ops.softmax(adapted(x["query_x"])),
        atol=1e-6,
    )
    assert result.sets.shape == (6, 3)
    assert (result.coverage, result.guarantee) == (0.9, None)
    # One fold holds one example of each class.
    one_by_one = [
        keras_maml.conformal_prediction(
            meta_model, x["support_x"], x["support_y"], x["query_x"][i : i + 1]
        ).sets[0]
        for i in range(2)
    ]
    assert (result.sets[:2] == one_by_one).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"miscoverage": 0.1}, r"at least 1 / \(S \+ 1\) .* least is 0.143"),
        ({"miscoverage": 1}, "`miscoverage` must lie between 0 and 1"),
        ({"folds": 7}, "`folds` must be an integer of at most 6"),
        ({"folds": 1}, "`folds` must be an integer of at least 2"),
        ({"support_y": np.ones((6, 2), "f")}, "`support_y` must have a value"),
        ({"query_x": np.full((2, 1), np.nan, "f")}, "finite predictions"),
    ],
)
def test_wrong_arguments(change, message):
    meta_model = keras_maml.MetaModel(
        small_mlp(), inner_steps=0, inner_loss=lambda y, y_pred: y_pred
    )
    x = task(regression_batch())
    with pytest.raises(ValueError, match=message):
        keras_maml.conformal_prediction(
            meta_model, **{**x, "miscoverage": 0.4, **change}
        )


def test_a_class_of_one_example():
    meta_model = keras_maml.MetaModel(
        small_mlp(2, 3), inner_loss="sparse_categorical_crossentropy"
    )
    x = task(class_batch(k_shot=1))
    with pytest.raises(ValueError, match="two examples of each class"):
        keras_maml.conformal_prediction(meta_model, **x)
