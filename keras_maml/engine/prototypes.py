"""Prototypes: the head that a task starts from, computed from its support."""

import keras
import tensorflow as tf

# What a class without examples gets: its probability is 0.
_NEVER = -1e9


def linear_head(features, labels, weight, n_way):
    """The linear layer that classifies by distance to the classes' means.

    With c_k the mean feature of class k, −‖f − c_k‖² is, but for a term that
    is the same for all classes, 2 c_k · f − ‖c_k‖²: a linear layer.

    Args:
        features: tensor `(S, D)`, of a support set.
        labels: integer tensor `(S,)` or `(S, 1)`.
        weight: tensor `(S,)`, how much each example counts, or `None`.
        n_way: int or integer tensor, the number of classes.

    Returns:
        A tuple of the kernel `(D, n_way)` and the bias `(n_way,)`.

    Raises:
        ValueError: if the features or the labels are not of that form.

    Reference:
        Snell et al., 2017, "Prototypical Networks for Few-shot Learning",
        equation 8; Triantafillou et al., 2020, "Meta-Dataset", section 3.
    """
    if not tf.is_tensor(features) or features.shape.rank != 2:
        raise ValueError(
            '`head_init="prototypes"` needs a learner that gives each example '
            "one vector of features, (examples, features). Received: outputs "
            f"{features}"
        )
    if not labels.dtype.is_integer:
        raise ValueError(
            '`head_init="prototypes"` needs integer labels. Received: '
            f"support_y of dtype {labels.dtype.name}"
        )
    if labels.shape.rank != 1 and labels.shape[1:] != [1]:
        raise ValueError(
            '`head_init="prototypes"` needs one label for each example, '
            "(support,) or (support, 1), and not one-hot ones. Received: "
            f"support_y of shape {labels.shape}"
        )
    # The head's weights are no less precise than the others.
    features = tf.cast(features, keras.backend.floatx())
    members = tf.one_hot(
        tf.reshape(labels, [-1]), n_way, dtype=features.dtype, axis=0
    )
    if weight is not None:
        members *= tf.cast(weight, features.dtype)
    counts = tf.reduce_sum(members, 1)
    means = tf.math.divide_no_nan(members @ features, counts[:, tf.newaxis])
    bias = tf.where(
        counts > 0,
        -tf.reduce_sum(tf.square(means), 1),
        tf.constant(_NEVER, features.dtype),
    )
    return 2 * tf.transpose(means), bias


def apply_head(head, features):
    """Class scores `(examples, n_way)` by a `linear_head`."""
    kernel, bias = head
    return tf.cast(features, kernel.dtype) @ kernel + bias


def count_classes(labels):
    """The number of classes of a meta-batch: its largest label plus one."""
    return tf.reduce_max(tf.cast(labels, tf.int32)) + 1
