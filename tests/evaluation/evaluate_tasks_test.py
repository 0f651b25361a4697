"""Scores of tasks against those of predictions."""

import keras
import numpy as np
import pytest

import keras_maml
from tests.sample_models import regression_batch
from tests.sample_models import small_mlp


def test_mean_and_interval():
    scores = keras_maml.TaskScores(np.array([1.0, 2.0, 3.0, 6.0]))
    assert scores.mean == 3.0
    # The sample's standard deviation is √(14/3).
    assert scores.ci95 == pytest.approx(1.96 * np.sqrt(14 / 3) / 2)
    assert keras_maml.TaskScores(np.array([1.0])).ci95 == float("inf")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y, w: ({"support_x": y}, y, w), "Missing keys"),
        (lambda x, y, w: (x, y[:, :3], w), "first two axes of y"),
        (lambda x, y, w: (x, y, w[:, 0]), "`sample_weight` must have the axes"),
        (
            lambda x, y, w: ({**x, "support_weight": w[:, :3]}, y, w),
            "the same number of examples",
        ),
    ],
    ids=["keys", "y", "sample_weight", "support_weight"],
)
def test_the_form_of_a_meta_batch_is_checked_first(change, message):
    meta_model = keras_maml.MetaModel(small_mlp(), inner_loss="mse")
    x, y = regression_batch(tasks=2)
    batch = change(x, y, np.ones(y.shape[:2], "f"))
    with pytest.raises(ValueError, match=message):
        keras_maml.evaluate_tasks(
            meta_model, [batch], keras.losses.mean_squared_error
        )


def test_scores_are_those_of_the_predictions():
    meta_model = keras_maml.MetaModel(
        small_mlp(), inner_optimizer=0.1, evaluation_steps=2, inner_loss="mse"
    )
    batches = [
        regression_batch(tasks=3),
        # The last meta-batch of a dataset may be smaller.
        regression_batch(tasks=2, seed=1),
    ]

    def expected(steps):
        return np.concatenate(
            [
                np.mean((meta_model(x, inner_steps=steps) - y) ** 2, (1, 2))
                for x, y in batches
            ]
        )

    metric = keras.losses.mean_squared_error
    scores = keras_maml.evaluate_tasks(meta_model, batches, metric, [0, 3])
    assert list(scores) == [0, 3]
    for steps, score in scores.items():
        np.testing.assert_allclose(score.values, expected(steps), rtol=1e-5)
    weight = np.array([[1, 0, 0, 2, 0]] * 3, "f")
    x, y = batches[0]
    weighted = keras_maml.evaluate_tasks(
        meta_model, [(x, y, weight)], metric, [3]
    )
    errors = np.square(meta_model(x, inner_steps=3) - y)[..., 0]
    np.testing.assert_allclose(
        weighted[3].values, (errors * weight).sum(1) / 3, rtol=1e-5
    )
    (score,) = keras_maml.evaluate_tasks(meta_model, batches, metric).values()
    np.testing.assert_allclose(score.values, expected(2), rtol=1e-5)
