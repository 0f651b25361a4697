"""Labelled examples held in memory, grouped by class."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike


class LabelledExamples:
    """The examples that a `ClassPool` holds and that `Episodes` draws from.

    A class is a list of rows of `x`. A class that is a rotation of another
    class has a number of quarter turns as well. Subsets share the memory of
    `x`.

    Args:
        x: array of shape `(examples, *input_shape)`; see `ClassPool`.
        labels: array of integers or strings, shape `(examples,)`.
        class_names: sequence of strings, one for each distinct label in
            ascending order. Defaults to the labels.

    Attributes:
        x: tensor of shape `(examples, *input_shape)`.
        counts: int array of shape `(num_classes,)`, the examples of each class.
        class_names: list of strings.
        turns: int array of shape `(num_classes,)`, by how many quarters each
            class is turned counter-clockwise, or `None` if no class is a
            rotation.

    Raises:
        ValueError: See `ClassPool`.
    """

    def __init__(
        self,
        x: ArrayLike,
        labels: ArrayLike,
        class_names: Sequence[str] | None = None,
    ) -> None:
        array = check_examples(np.asarray(x))
        distinct, inverse, counts = np.unique(
            _check_labels(np.asarray(labels), len(array)),
            return_inverse=True,
            return_counts=True,
        )
        if class_names is None:
            class_names = [str(label) for label in distinct]
        if len(class_names) != len(distinct):
            raise ValueError(
                "`class_names` must hold one name for each of the "
                f"{len(distinct)} classes in `labels`. Received: "
                f"class_names of length {len(class_names)}"
            )
        self.class_names = list(class_names)
        self.counts = counts
        self.turns: np.ndarray | None = None
        # `_rows` holds the rows class by class; `_starts[class]` is the first.
        self._rows = np.argsort(inverse, kind="stable").astype("int32")
        self._starts = np.cumsum(counts) - counts
        with tf.device("CPU:0"):
            self.x = tf.convert_to_tensor(array)

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.counts)

    def subset(self, classes: np.ndarray) -> "LabelledExamples":
        """Returns the classes of these numbers, in this order."""
        subset = object.__new__(LabelledExamples)
        subset.x = self.x
        subset.turns = None if self.turns is None else self.turns[classes]
        subset.counts = self.counts[classes]
        subset.class_names = [self.class_names[index] for index in classes]
        subset._rows = self._rows
        subset._starts = self._starts[classes]
        return subset

    def with_rotations(self) -> "LabelledExamples":
        """Returns the classes and each of them turned; see `ClassPool`."""
        self.check_unrotated("Add rotations once")
        self.check_square()
        turned = self.subset(np.tile(np.arange(self.num_classes), 4))
        turned.turns = np.repeat(np.arange(4), self.num_classes)
        turned.class_names = [
            f"{name} turned by {90 * turns} degrees" if turns else name
            for name, turns in zip(
                turned.class_names, turned.turns, strict=True
            )
        ]
        return turned

    def counts_of(self, classes: tf.Tensor) -> tf.Tensor:
        """Returns how many examples each of these classes has, int32."""
        return tf.gather(self.counts.astype("int32"), classes)

    def rows_of(self, classes: tf.Tensor, places: tf.Tensor) -> tf.Tensor:
        """Returns the rows of `x` that hold some examples of some classes.

        Args:
            classes: int tensor of shape `(...)`, the classes.
            places: int tensor of shape `(..., examples)`, which of the examples
                of each class, counted from 0.

        Returns:
            int32 tensor of shape `(..., examples)`.
        """
        starts = tf.gather(self._starts.astype("int32"), classes)
        return tf.gather(self._rows, starts[..., None] + places)

    def turns_of(self, classes: tf.Tensor) -> tf.Tensor | None:
        """Returns the quarter turns of these classes, or None without turns."""
        if self.turns is None:
            return None
        return tf.gather(self.turns.astype("int32"), classes)

    def check_unrotated(self, advice: str) -> None:
        """Raises a ValueError if rotations were added as classes."""
        if self.turns is not None:
            raise ValueError(
                f"The pool already has rotations as classes. {advice}. "
                f"Received: a pool of {self.num_classes} classes, of which "
                f"{np.count_nonzero(self.turns)} are rotations"
            )

    def check_square(self) -> None:
        """Raises a ValueError unless the examples are square images."""
        shape = self.x.shape
        if shape.rank != 4 or shape[1] != shape[2]:
            raise ValueError(
                "Only square images, of shape (examples, size, size, "
                f"channels), can be rotated. Received: x of shape {shape}"
            )


def check_examples(x: np.ndarray) -> np.ndarray:
    """Returns examples as they are kept, or raises a ValueError."""
    if x.dtype.kind not in "biuf":
        raise ValueError(
            f"`x` must hold numbers. Received: x of dtype {x.dtype}"
        )
    if x.ndim < 2 or 0 in x.shape:
        raise ValueError(
            "`x` must be a non-empty array of shape (examples, *input_shape). "
            f"Received: x of shape {x.shape}"
        )
    if x.dtype.kind in "bf":
        with np.errstate(over="ignore"):  # Found below.
            x = x.astype("float32", copy=False)
        finite = np.isfinite(x.reshape(len(x), -1)).all(axis=1)
        if not finite.all():
            raise ValueError(
                "`x` must not hold NaN or infinity in float32. Received: x "
                f"with such values in {np.count_nonzero(~finite)} of {len(x)} "
                f"examples, the first at index {np.argmin(finite)}"
            )
    return x


def as_inputs(x: tf.Tensor) -> tf.Tensor:
    """Returns kept examples as a learner gets them."""
    if x.dtype == tf.uint8:
        x = tf.cast(x, tf.float32) * np.float32(1 / 255)
    return x


def _check_labels(labels, examples):
    if labels.ndim != 1:
        raise ValueError(
            "`labels` must be of shape (examples,): one class for each "
            "example, neither one-hot nor a column. Received: labels of shape "
            f"{labels.shape}"
        )
    if labels.dtype.kind not in "iuUST":
        raise ValueError(
            "`labels` must hold integers or strings. Received: labels of "
            f"dtype {labels.dtype}"
        )
    if len(labels) != examples:
        raise ValueError(
            "`x` and `labels` must be of the same length. Received: x of "
            f"length {examples}, labels of length {len(labels)}"
        )
    return labels
