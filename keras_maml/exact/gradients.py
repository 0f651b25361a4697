"""Gradients that are never missing or sparse."""

import tensorflow as tf


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
