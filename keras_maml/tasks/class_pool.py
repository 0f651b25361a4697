"""A set of labelled examples held in memory, from which episodes are drawn."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_maml.tasks.episodes import Episodes
from keras_maml.validation import check_integer
from keras_maml.validation import check_seed


class ClassPool:
    """Labelled examples, grouped by class.

    Made by `tasks.from_arrays`, `tasks.from_folder` or `tasks.from_tfds`. Pools
    split from one another share the memory of their examples.

    Examples are kept as they come: `uint8` (images) stays `uint8` and is scaled
    to [0, 1] float32 when an episode is drawn; other floats become float32;
    other integers, such as tokens, are left alone.

    Args:
        x: array of shape `(examples, *input_shape)`.
        labels: array of integers or strings, shape `(examples,)`. The number
            of examples may differ from class to class.
        class_names: sequence of strings, one for each distinct label in
            ascending order, for error messages. Defaults to the labels.

    Attributes:
        num_classes: int.
        counts: int array of shape `(num_classes,)`, the examples of each class.
        class_names: list of strings.
        x: array of shape `(examples, *input_shape)`, the examples of all pools
            that share this memory.

    Raises:
        ValueError: If `x` is not numeric, has no feature axis or holds NaN or
            infinity, if `labels` is not one integer or string for each example
            or if `class_names` is not one name for each class.

    Example:

    >>> import numpy as np
    >>> from keras_maml import tasks
    >>> images = np.zeros((60, 8, 8, 1), "uint8")
    >>> pool = tasks.from_arrays(images, labels=np.repeat(np.arange(20), 3))
    >>> train, validation, test = pool.split(12, 3, 5, seed=0)
    >>> train_tasks = train.episodes(n_way=5, k_shot=1, q_query=2).batch(4)
    >>> x, y = next(iter(train_tasks))
    >>> x["support_x"].shape, y.shape
    (TensorShape([4, 5, 8, 8, 1]), TensorShape([4, 10]))
    """

    def __init__(
        self,
        x: Any,
        labels: Any,
        class_names: Sequence[str] | None = None,
    ) -> None:
        x = _check_examples(np.asarray(x))
        labels = _check_labels(np.asarray(labels), len(x))
        distinct, inverse, counts = np.unique(
            labels, return_inverse=True, return_counts=True
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
        # The examples of a class stand together in `_rows`, the numbers of
        # their rows in `x`, from `_starts[class]` on.
        self._rows = np.argsort(inverse, kind="stable").astype("int32")
        self._starts = np.cumsum(counts) - counts
        # Quarter turns counter-clockwise that make a class out of another, or
        # None where no class was made that way.
        self._turns: np.ndarray | None = None
        with tf.device("CPU:0"):
            self._x = tf.convert_to_tensor(x)

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.counts)

    @property
    def x(self) -> np.ndarray:
        """The examples of all pools that share this memory."""
        return np.asarray(self._x)

    def split(self, *sizes: int, seed: int = 0) -> tuple["ClassPool", ...]:
        """Deals the classes out to pools that have none in common.

        Args:
            *sizes: ints. The number of classes of each pool. Classes left over
                are in none.
            seed: int. Shuffles the classes. Defaults to `0`.

        Returns:
            One `ClassPool` for each of `sizes`.

        Raises:
            ValueError: If a size is not a positive integer, together they
                exceed `num_classes`, `seed` is not an integer between 0 and
                2**32 - 1, or the pool already has rotations as classes: split
                first, so that no drawing is in two pools.
        """
        seed = check_seed(seed)
        sizes = tuple(check_integer("sizes", size) for size in sizes)
        if not sizes or sum(sizes) > self.num_classes:
            raise ValueError(
                f"`sizes` must be the numbers of classes to take out of the "
                f"pool's {self.num_classes}. Received: sizes={sizes}, in all "
                f"{sum(sizes)}"
            )
        self._refuse_rotations("Split first, then add rotations")
        # `RandomState` and not a `Generator`: only its streams are promised
        # never to change, and a split has to be the same in ten years.
        order = np.random.RandomState(seed).permutation(self.num_classes)
        ends = np.cumsum(sizes)
        return tuple(
            self._subset(order[end - size : end])
            for size, end in zip(sizes, ends, strict=True)
        )

    def with_rotations(self) -> "ClassPool":
        """Adds each class turned by 90, 180 and 270 degrees as new classes.

        Class `c` turned by `t` quarters becomes class
        `c + t * num_classes`. No image is copied.

        Returns:
            A `ClassPool` with four times as many classes.

        Raises:
            ValueError: If the examples are not square images or the pool
                already has rotations as classes.
        """
        self._refuse_rotations("Add rotations once")
        self._check_square()
        classes = np.tile(np.arange(self.num_classes), 4)
        turned = self._subset(classes)
        turned._turns = np.repeat(np.arange(4), self.num_classes)
        turned.class_names = [
            f"{name} turned by {90 * turns} degrees" if turns else name
            for name, turns in zip(
                turned.class_names, turned._turns, strict=True
            )
        ]
        return turned

    def with_at_least(self, examples: int) -> "ClassPool":
        """Leaves out the classes that have fewer examples.

        Args:
            examples: int. The number of examples that a class must have.

        Returns:
            A `ClassPool`.

        Raises:
            ValueError: If `examples` is not a positive integer or no class has
                as many.
        """
        examples = check_integer("examples", examples)
        classes = np.flatnonzero(self.counts >= examples)
        if not len(classes):
            raise ValueError(
                f"No class has {examples} examples; the largest has "
                f"{self.counts.max()}. Received: examples={examples}"
            )
        return self._subset(classes)

    def episodes(
        self,
        n_way: int,
        k_shot: int,
        q_query: int,
        *,
        rotations: bool = False,
        seed: int = 0,
    ) -> Episodes:
        """Returns the distribution of n-way, k-shot tasks over these classes.

        Args:
            n_way: int. Classes of an episode.
            k_shot: int. Support examples of a class.
            q_query: int. Query examples of a class, none of them in the support
                set.
            rotations: bool. Whether each class of an episode, support and query
                alike, is turned by 0, 90, 180 or 270 degrees at random.
                Defaults to `False`.
            seed: int. See `TaskDistribution`. Defaults to `0`.

        Returns:
            An `Episodes` object; see there.

        Raises:
            ValueError: See `Episodes`.
        """
        return Episodes(
            self, n_way, k_shot, q_query, rotations=rotations, seed=seed
        )

    def _subset(self, classes):
        subset = object.__new__(ClassPool)
        subset._x = self._x
        subset._rows = self._rows
        subset._starts = self._starts[classes]
        subset._turns = None if self._turns is None else self._turns[classes]
        subset.counts = self.counts[classes]
        subset.class_names = [self.class_names[index] for index in classes]
        return subset

    def _refuse_rotations(self, advice):
        if self._turns is not None:
            raise ValueError(
                f"The pool already has rotations as classes. {advice}. "
                f"Received: a pool of {self.num_classes} classes, of which "
                f"{np.count_nonzero(self._turns)} are rotations"
            )

    def _check_square(self):
        shape = self._x.shape
        if shape.rank != 4 or shape[1] != shape[2]:
            raise ValueError(
                "Only square images, of shape (examples, size, size, "
                f"channels), can be rotated. Received: x of shape {shape}"
            )


def _check_examples(x):
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
