"""Preprocessing of images, once for each image, when it is loaded."""

import tensorflow as tf


def preprocess_omniglot(image: tf.Tensor) -> tf.Tensor:
    """Makes an Omniglot drawing 28×28, with ink bright on a dark ground.

    This function inverts the drawing and resizes it with a Lanczos filter. The
    result has eight bits, as the paper's images have. An episode scales it to
    [0, 1], where 0 is paper and 1 is ink.

    Args:
        image: uint8 tensor of shape `(height, width, channels)`, black ink on
            white. Only the first channel counts.

    Returns:
        uint8 tensor of shape `(28, 28, 1)`: 255 is ink.

    Example:

    >>> import tensorflow as tf
    >>> from keras_maml import tasks
    >>> paper = 255 * tf.ones([105, 105, 3], tf.uint8)
    >>> image = tasks.preprocess_omniglot(paper)
    >>> image.shape, int(tf.reduce_max(image))
    (TensorShape([28, 28, 1]), 0)

    Reference:

    - [Lake et al., 2015](https://doi.org/10.1126/science.aab3050), the data.
    - [Finn et al., 2017](https://arxiv.org/abs/1703.03400), section 5.2.
    """
    ink = 255.0 - tf.cast(image[..., :1], tf.float32)
    return to_uint8(tf.image.resize(ink, (28, 28), "lanczos3", antialias=True))


def to_uint8(image: tf.Tensor) -> tf.Tensor:
    """Clips a resized image to 0 to 255 and rounds it to eight bits."""
    return tf.cast(tf.round(tf.clip_by_value(image, 0.0, 255.0)), tf.uint8)
