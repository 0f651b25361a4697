"""A function applied to a stream, on all cores and in order."""

import tensorflow as tf


def parallel_map(dataset, function):
    """Maps `dataset` by `function`; nothing of the stream is autotuned.

    TensorFlow's autotuner sleeps for periods that double, and an iterator is
    not gone before it wakes: it held up the end of `fit` by as long as the
    training had lasted. Without it a map takes as many calls at a time as
    there are cores, which is what these small functions want.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.map(
        function, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    ).with_options(options)
