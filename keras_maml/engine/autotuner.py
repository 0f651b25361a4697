"""A user's dataset without TensorFlow's autotuner of input pipelines."""

import tensorflow as tf

from keras_maml.streams import stream_of

# Meta-batches that are ready before a step asks for them.
_BUFFER = 2


def without_autotuner(dataset):
    """Returns a dataset that TensorFlow does not tune while it runs.

    The autotuner sleeps for longer and longer periods, and an iterator does not
    close before it wakes: each epoch of a finite dataset, and each `fit`, may
    end seconds late. Without the autotuner, `num_parallel_calls=AUTOTUNE` is
    one call on each core, of at most 16, and TensorFlow adds no buffer, so this
    function does.

    Args:
        dataset: what `fit`, `evaluate` or `predict` was called with.

    Returns:
        Anything but a `tf.data.Dataset`, this library's own streams, and
        datasets whose autotuner the user has set, as they are.
    """
    if not isinstance(dataset, tf.data.Dataset) or stream_of(dataset):
        return dataset
    if dataset.options().autotune != tf.data.Options().autotune:
        return dataset
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.prefetch(_BUFFER).with_options(options)
