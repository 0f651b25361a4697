"""Gradients that are never missing or sparse, and of functions in loops."""

import functools

import tensorflow as tf

from keras_maml import tensorflow_internals


def custom_gradient(function):
    """`tf.custom_gradient` for functions that a `tf.while_loop` may call.

    The derivative of a loop is another loop, with a graph of its own. There, a
    gradient may pass tensors of the first loop to a function with a custom
    gradient. TensorFlow would take them for tensors of the second loop, and
    fail in the second derivative. This decorator fetches them first.

    Args:
        function: as for `tf.custom_gradient`, with tensors as arguments.
    """
    with_gradient = tensorflow_internals.custom_gradient(function)

    @functools.wraps(function)
    def call(*tensors):
        return with_gradient(*map(_fetched, tensors))

    return call


def _fetched(tensor):
    if tf.executing_eagerly() or not tf.is_tensor(tensor):
        return tensor
    here = tf.compat.v1.get_default_graph()
    # Tensors of eager execution have no graph.
    is_here = getattr(tensor, "graph", here) is here
    return tensor if is_here else tensorflow_internals.fetched(tensor, here)


def dense_gradients(tape, target, sources, output_gradients=None):
    """Returns the gradients of a tape as dense tensors.

    Args:
        tape: `tf.GradientTape` that has recorded `target`.
        target: tensor or list of tensors.
        sources: structure of tensors that the tape watches.
        output_gradients: as in `tf.GradientTape.gradient`.

    Returns:
        A structure like `sources`. If the target does not depend on a source,
        the gradient is 0. `tf.IndexedSlices` become tensors.
    """
    gradients = tape.gradient(target, sources, output_gradients)
    return tf.nest.map_structure(dense, gradients, sources)


def dense(gradient, source):
    """Returns a gradient as a dense tensor, and zeros for `None`."""
    if gradient is None:
        return tf.zeros_like(source)
    return tf.convert_to_tensor(gradient)
