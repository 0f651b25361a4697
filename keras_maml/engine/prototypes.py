"""A head that starts from prototypes, the mean features of the classes."""

import keras
import tensorflow as tf

# The bias of a class without examples, whose probability is then 0.
_NEVER = -1e9


def linear_head(features, labels, weight, n_way):
    """Computes a linear layer that classifies by distance to class means.

    Let c_k be the mean feature of class k. The scores −‖f − c_k‖² equal
    2 c_k · f − ‖c_k‖² plus a term that is the same for all classes. The latter
    is a linear layer.

    Args:
        features: tensor `(S, D)`, the features of a support set.
        labels: integer tensor `(S,)` or `(S, 1)`.
        weight: tensor `(S,)`, the weight of each example, or `None`.
        n_way: int or integer tensor, the number of classes.

    Returns:
        A tuple of the kernel `(D, n_way)` and the bias `(n_way,)`.

    Raises:
        ValueError: if the features or the labels do not have this form.

    Reference:
        Snell et al., 2017, "Prototypical Networks for Few-shot Learning",
        equation 8; Triantafillou et al., 2020, "Meta-Dataset", section 3.
    """
    if not tf.is_tensor(features) or features.shape.rank != 2:
        raise ValueError(
            '`head_init="prototypes"` needs a learner that outputs one vector '
            "of features for each example, (examples, features). "
            f"Received: outputs={features}"
        )
    if not labels.dtype.is_integer:
        raise ValueError(
            '`head_init="prototypes"` needs integer labels. Received: '
            f"support_y of dtype {labels.dtype.name}"
        )
    if labels.shape.rank != 1 and labels.shape[1:] != [1]:
        raise ValueError(
            '`head_init="prototypes"` needs one label for each example, '
            "(support,) or (support, 1), and not one-hot labels. Received: "
            f"support_y of shape {labels.shape}"
        )
    # The head adapts, so it needs the precision of the learner's weights.
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
    """Returns the class scores `(examples, n_way)` of a `linear_head`."""
    kernel, bias = head
    return tf.cast(features, kernel.dtype) @ kernel + bias


def count_classes(labels):
    """Returns the number of classes, the largest label plus one."""
    # A replica may have no tasks, and so no labels.
    return tf.maximum(tf.reduce_max(tf.cast(labels, tf.int32)) + 1, 1)
