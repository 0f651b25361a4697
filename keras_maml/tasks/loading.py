"""Reading examples into memory."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from keras_maml.tasks.parallel_map import parallel_map

# A function of one example, in TensorFlow operations, applied when it is read.
Preprocess = Callable[[tf.Tensor], tf.Tensor]


def read_all(
    elements: tf.data.Dataset,
    read: Callable[..., tuple],
    describe: Callable[[int], str],
) -> list[np.ndarray]:
    """Reads every element, once, in parallel and in order.

    Args:
        elements: `tf.data.Dataset`.
        read: function from an element to a tuple of tensors, the example first.
        describe: function from an element's number to its name in an error.

    Returns:
        A list of arrays, one for each of the tensors that `read` returns.

    Raises:
        ValueError: If an element cannot be read, or the shape of its example
            differs from the first example's.
    """
    examples = parallel_map(elements, read)
    try:
        batches = list(examples.batch(256).prefetch(2).as_numpy_iterator())
    except tf.errors.OpError:
        _blame(examples, describe)
        raise
    if not batches:
        raise ValueError("There are no examples. Received: an empty dataset")
    return [np.concatenate(parts) for parts in zip(*batches, strict=True)]


def _blame(examples, describe):
    """Finds the example that cannot be read or stacked and names it."""
    iterator = iter(examples)
    shapes = []
    while True:
        try:
            example = next(iterator, None)
        except tf.errors.OpError as error:
            raise ValueError(
                f"An example cannot be read or preprocessed: {error.message} "
                f"Received: {describe(len(shapes))}"
            ) from error
        if example is None:
            return
        shapes.append(tuple(example[0].shape))
        if shapes[-1] != shapes[0]:
            raise ValueError(
                "All examples must have one shape; bring them to one size by "
                f"`image_size` or `preprocess`. Received: {describe(0)} of "
                f"shape {shapes[0]}, {describe(len(shapes) - 1)} of shape "
                f"{shapes[-1]}"
            )
