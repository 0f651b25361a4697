"""What takes the place of rows and tasks of weight 0."""

import numpy as np
import tensorflow as tf

from keras_maml.engine import weightless


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
