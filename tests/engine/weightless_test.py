"""What takes the place of rows and tasks of weight 0."""

import numpy as np
import tensorflow as tf

import keras_maml
from keras_maml.engine import weightless
from tests.sample_models import regression_batch
from tests.sample_models import small_mlp


def support(weight, values):
    x = {
        "support_x": tf.constant(values),
        "support_y": tf.constant(values),
        "support_weight": tf.constant(weight),
        "query_x": tf.zeros([len(values), 1, 1]),
    }
    return weightless.filled(x)[0]


def test_rows_that_count_take_the_places_of_others_in_turn():
    x = support(
        [[0.0, 1.0, 0.0, 2.0, 0.0]], [[[np.nan], [1.0], [7.0], [3.0], [np.inf]]]
    )
    for key in ("support_x", "support_y"):
        np.testing.assert_array_equal(x[key][0, :, 0], [1, 1, 1, 3, 1])


def test_a_task_without_a_row_that_counts_is_zeros():
    x = support([[0.0, 0.0], [0.0, 1.0]], [[[np.nan], [1.0]], [[5.0], [2.0]]])
    np.testing.assert_array_equal(x["support_x"][..., 0], [[0, 0], [2, 2]])


def test_each_target_has_its_own_rows_and_a_query_counts_for_any():
    x = {"query_x": tf.constant([[[1.0], [2.0], [3.0]]])}
    y = [tf.constant([[[10.0], [20.0], [30.0]]])] * 2
    weights = [tf.constant([[1.0, 0.0, 0.0]]), tf.constant([[0.0, 1.0, 0.0]])]
    x, y = weightless.filled(x, y, weights)
    np.testing.assert_array_equal(x["query_x"][0, :, 0], [1, 2, 1])
    np.testing.assert_array_equal(y[0][0, :, 0], [10, 10, 10])
    np.testing.assert_array_equal(y[1][0, :, 0], [20, 20, 20])


def test_a_replica_of_tasks_that_do_not_count_is_zeros():
    nan = tf.fill([2, 3, 1], np.nan)
    x = {"support_x": nan, "support_y": nan, "query_x": nan}
    x, y = weightless.filled(x, nan, tf.zeros([2, 1]))
    for tensor in (*x.values(), y):
        assert not np.any(tensor)


def test_tasks_that_do_not_count_move_no_statistics():
    learner = small_mlp(batch_norm=True)
    meta_model = keras_maml.MetaModel(learner)
    meta_model.compile("sgd", "mse", run_eagerly=True)
    before = learner.get_weights()
    x, y = regression_batch(tasks=1)
    meta_model.train_on_batch(x, y, sample_weight=np.zeros([1, 1], "f"))
    for new, old in zip(learner.get_weights(), before, strict=True):
        np.testing.assert_array_equal(new, old)


def test_metrics_count_the_copies_and_weighted_metrics_do_not():
    meta_model = keras_maml.MetaModel(small_mlp(), task_map="loop")
    meta_model.compile("sgd", "mse", metrics=["mae"], weighted_metrics=["mae"])
    x, y = regression_batch(tasks=2)
    weight = np.ones(y.shape[:2], "f")
    weight[:, 1] = 0
    logs = meta_model.evaluate(
        x, y, sample_weight=weight, verbose=0, return_dict=True
    )
    x["query_x"][:, 1], y[:, 1] = x["query_x"][:, 2], y[:, 2]
    errors = np.abs(meta_model.predict(x, verbose=0) - y)[..., 0]
    np.testing.assert_allclose(logs["mae"], errors.mean(), rtol=1e-5)
    np.testing.assert_allclose(
        logs["weighted_mae"], errors[weight > 0].mean(), rtol=1e-5
    )
