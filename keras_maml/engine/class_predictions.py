"""The classes that a classifier predicts, and how sure it is of them."""

from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

# Of the confidences, which lie between 0 and 1.
BINS = 15

_losses = keras.losses
_SPARSE = (
    _losses.SparseCategoricalCrossentropy,
    _losses.sparse_categorical_crossentropy,
)
_ONE_HOT = (
    _losses.CategoricalCrossentropy,
    _losses.CategoricalFocalCrossentropy,
    _losses.categorical_crossentropy,
    _losses.categorical_focal_crossentropy,
)
_BINARY = (
    _losses.BinaryCrossentropy,
    _losses.BinaryFocalCrossentropy,
    _losses.binary_crossentropy,
    _losses.binary_focal_crossentropy,
)


class ClassPredictions(NamedTuple):
    """How to read the outputs of a classifier.

    Attributes:
        kind: `"sparse"`, `"one_hot"` or `"binary"`, the form of the labels.
        from_logits: bool. Whether the outputs are logits.
        ignore_class: int, a label that does not count, or `None`.
    """

    kind: str
    from_logits: bool
    ignore_class: int | None = None

    def fit(self, outputs):
        """Returns whether outputs `(Q, ..., classes)` are of one choice.

        A binary cross-entropy of several numbers judges several answers, of
        which any number may be right.
        """
        return self.kind != "binary" or outputs.shape[1:][-1:] == [1]

    def probabilities(self, outputs):
        """Returns the probability of each class, `(..., classes)`."""
        outputs = tf.cast(outputs, keras.backend.floatx())
        if self.kind == "binary":
            if self.from_logits:
                outputs = tf.sigmoid(outputs)
            return tf.concat([1 - outputs, outputs], -1)
        if self.from_logits:
            return tf.nn.softmax(outputs)
        # As Keras's losses do.
        return outputs / tf.reduce_sum(outputs, -1, keepdims=True)

    def labels(self, targets, outputs):
        """Returns the numbers of the classes of targets, `(...)`."""
        if self.kind == "one_hot":
            return tf.argmax(targets, -1)
        labels = tf.cast(targets, tf.int64)
        if labels.shape.rank == outputs.shape.rank:
            labels = tf.squeeze(labels, -1)
        return labels

    def support_labels(self, support_y):
        """Returns the numbers of the classes of an array `(S, ...)`, `(S,)`."""
        if self.kind == "one_hot":
            return np.argmax(support_y, -1)
        return np.asarray(support_y).reshape(len(support_y)).astype(int)

    def count(self, support_y, support_weight, outputs):
        """Returns the number of classes of a support set, a float scalar."""
        if self.kind == "binary":
            return tf.constant(2.0)
        width = outputs.shape[-1] or tf.shape(outputs)[-1]
        # The support set has one row an example, the outputs one a query.
        support_outputs = tf.zeros([1, *[1] * (outputs.shape.rank - 2), width])
        labels = self.labels(support_y, support_outputs)
        there = tf.one_hot(labels, width)
        if support_weight is not None:
            weight = tf.cast(support_weight != 0, there.dtype)
            there *= tf.reshape(weight, [-1, *[1] * (there.shape.rank - 1)])
        axes = list(range(there.shape.rank - 1))
        return tf.reduce_sum(tf.reduce_max(there, axes))

    def bins(self, targets, outputs, weight):
        """Sorts the predictions by their confidence.

        Args:
            targets: tensor `(Q, ...)`.
            outputs: tensor `(Q, ..., classes)`.
            weight: tensor `(Q, ...)` or `(1,)`, or `None`.

        Returns:
            A tensor `(BINS, 3)`: for each bin the sums over its predictions of
            the weight, of the confidence and of the right ones.
        """
        probabilities = self.probabilities(outputs)
        labels = self.labels(targets, outputs)
        confidence = tf.reduce_max(probabilities, -1)
        is_right = tf.argmax(probabilities, -1) == labels
        if weight is None:
            weight = tf.ones_like(confidence)
        weight = tf.cast(weight, confidence.dtype)
        while weight.shape.rank < confidence.shape.rank:
            weight = weight[..., tf.newaxis]
        weight = weight * tf.ones_like(confidence)
        if self.ignore_class is not None:
            counts = labels != self.ignore_class
            weight *= tf.cast(counts, weight.dtype)
        right = tf.cast(is_right, weight.dtype)
        values = tf.stack([weight, weight * confidence, weight * right], -1)
        # A confidence of exactly 1 belongs to the last bin.
        number = tf.cast(confidence * BINS, tf.int32)
        return tf.math.unsorted_segment_sum(
            tf.reshape(values, [-1, 3]),
            tf.reshape(tf.clip_by_value(number, 0, BINS - 1), [-1]),
            BINS,
        )


def class_predictions(loss):
    """Returns how to read the outputs that a loss judges.

    Args:
        loss: what the model was compiled with.

    Returns:
        A `ClassPredictions`. `None` if the loss is not a cross-entropy of
        Keras, or one of several.
    """
    losses = keras.tree.flatten(loss)
    if len(losses) != 1:
        return None
    loss = losses[0]
    if isinstance(loss, str):
        loss = keras.losses.get(loss)
    for kind, known in (
        ("sparse", _SPARSE),
        ("one_hot", _ONE_HOT),
        ("binary", _BINARY),
    ):
        # A subclass may do something else.
        if any(loss is one or type(loss) is one for one in known):
            return ClassPredictions(
                kind,
                getattr(loss, "from_logits", False),
                getattr(loss, "ignore_class", None),
            )
    return None
