"""Constants that the operations of one graph share.

Each operation of a graph costs time before the first step, and TensorFlow makes
one for each number that meets a tensor.
"""

import tensorflow as tf


def once_in_graph(make, *key):
    """Returns `make(*key)`, which is made only once in each graph.

    Args:
        make: function of `key` that returns a tensor, and depends on nothing
            else.
        *key: hashable arguments.
    """
    if tf.executing_eagerly():
        return make(*key)
    graph = tf.compat.v1.get_default_graph()
    if not hasattr(graph, "keras_maml_constants"):
        graph.keras_maml_constants = {}
    constants = graph.keras_maml_constants
    if (make, key) not in constants:
        # Not only after what the first user waits for.
        with tf.control_dependencies(None):
            constants[make, key] = make(*key)
    return constants[make, key]


def constant(value, dtype):
    """Returns a number, or a tuple of numbers, as a tensor."""
    return once_in_graph(tf.constant, value, dtype)


def filled(value, shape, dtype):
    """Returns a tensor of equal elements.

    Args:
        value: number.
        shape: tuple of ints.
        dtype: a `tf.DType`.
    """
    return once_in_graph(_fill, value, shape, dtype)


def _fill(value, shape, dtype):
    return tf.fill(shape, tf.constant(value, dtype))
