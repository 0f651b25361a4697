"""Constants that the operations of a graph share."""

import numpy as np
import tensorflow as tf

from keras_maml.exact.constants import constant
from keras_maml.exact.constants import filled


def test_a_graph_has_each_constant_once():
    @tf.function(autograph=False)
    def run(x):
        with tf.control_dependencies([tf.exp(x)]):
            first = constant(2.0, tf.float32)
        assert constant(2.0, tf.float32) is first
        assert constant(2.0, tf.float64) is not first
        # Others must not wait for what the first user waits for.
        assert not first.op.control_inputs
        rows = filled(1.0, (1, 3), tf.float32)
        assert filled(1.0, (1, 3), tf.float32) is rows
        inner = tf.function(lambda: constant(2.0, tf.float32) + 1.0)
        return x * first + rows, inner(), constant((4, 5), tf.int32)

    for _ in range(2):
        values = run(tf.constant(3.0))
        np.testing.assert_array_equal(values[0], [[7.0, 7.0, 7.0]])
        np.testing.assert_array_equal(values[1], 3.0)
        np.testing.assert_array_equal(values[2], [4, 5])


def test_eager_execution_has_constants_too():
    np.testing.assert_array_equal(constant((4, 5), tf.int32), [4, 5])
    np.testing.assert_array_equal(filled(0.5, (2,), tf.float64), [0.5, 0.5])
