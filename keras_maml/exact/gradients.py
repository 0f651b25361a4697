"""Gradients in which nothing is missing or sparse."""

import tensorflow as tf


def dense_gradients(tape, target, sources, output_gradients=None):
    """The gradients of a tape, as dense tensors.

    Args:
        tape: `tf.GradientTape` that has recorded `target`.
        target: tensor or list of tensors.
        sources: structure of tensors that the tape watches.
        output_gradients: as in `tf.GradientTape.gradient`.

    Returns:
        A structure like `sources`: 0 where the target does not depend on a
        source, and a tensor where TensorFlow gives `tf.IndexedSlices`.
    """
    gradients = tape.gradient(target, sources, output_gradients)
    return tf.nest.map_structure(dense, gradients, sources)


def dense(gradient, source):
    """One gradient as a dense tensor; `None` becomes zeros like `source`."""
    if gradient is None:
        return tf.zeros_like(source)
    return tf.convert_to_tensor(gradient)
