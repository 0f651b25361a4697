"""A set of labelled examples held in memory, from which episodes are drawn."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from keras_maml.tasks.episodes import Episodes
from keras_maml.tasks.labelled_examples import LabelledExamples
from keras_maml.validation import check_integer
from keras_maml.validation import check_seed


class ClassPool:
    """Labelled examples, grouped by class.

    To make a pool, call `tasks.from_arrays`, `tasks.from_folder` or
    `tasks.from_tfds`. Pools that come from one pool share the memory of its
    examples.

    The pool keeps `uint8` images as they are; an episode scales them to float32
    in [0, 1]. Floats and booleans become float32. Other integers, such as
    tokens, keep their dtype.

    Args:
        x: array of shape `(examples, *input_shape)`.
        labels: array of integers or strings, shape `(examples,)`. The number
            of examples may differ from class to class.
        class_names: sequence of strings, one for each distinct label in
            ascending order. Errors and `Episodes.classes` use them. Defaults to
            the labels.

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
        x: ArrayLike,
        labels: ArrayLike,
        class_names: Sequence[str] | None = None,
    ) -> None:
        self._examples = LabelledExamples(x, labels, class_names)

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return self._examples.num_classes

    @property
    def counts(self) -> np.ndarray:
        """The number of examples of each class."""
        return self._examples.counts

    @property
    def class_names(self) -> list[str]:
        """The name of each class."""
        return self._examples.class_names

    @property
    def x(self) -> np.ndarray:
        """The examples of all pools that share this memory."""
        return np.asarray(self._examples.x)

    def split(self, *sizes: int, seed: int = 0) -> tuple["ClassPool", ...]:
        """Splits the classes into pools that have no class in common.

        Args:
            *sizes: ints. The number of classes of each pool. Classes that are
                left over are in no pool.
            seed: int. Shuffles the classes. Defaults to `0`.

        Returns:
            One `ClassPool` for each of `sizes`.

        Raises:
            ValueError: If a size is not a positive integer, the sum of the
                sizes exceeds `num_classes`, `seed` is not an integer between 0
                and 2**32 - 1, or the pool already has rotations as classes. A
                split after the rotations could put one drawing in two pools.
        """
        seed = check_seed(seed)
        sizes = tuple(check_integer("sizes", size) for size in sizes)
        if not sizes or sum(sizes) > self.num_classes:
            raise ValueError(
                f"`sizes` must be the numbers of classes to take out of the "
                f"pool's {self.num_classes}. Received: sizes={sizes}, in all "
                f"{sum(sizes)}"
            )
        self._examples.check_unrotated("Split first, then add rotations")
        # NumPy promises that `RandomState` never changes; `Generator` may.
        order = np.random.RandomState(seed).permutation(self.num_classes)
        ends = np.cumsum(sizes)
        return tuple(
            self._of(self._examples.subset(order[end - size : end]))
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
        return self._of(self._examples.with_rotations())

    def with_at_least(self, examples: int) -> "ClassPool":
        """Returns a pool of the classes that have this many examples or more.

        Args:
            examples: int. The number of examples that a class must have.

        Returns:
            A `ClassPool`.

        Raises:
            ValueError: If `examples` is not a positive integer or no class has
                that many.
        """
        examples = check_integer("examples", examples)
        classes = np.flatnonzero(self.counts >= examples)
        if not len(classes):
            raise ValueError(
                f"No class has {examples} examples; the largest has "
                f"{self.counts.max()}. Received: examples={examples}"
            )
        return self._of(self._examples.subset(classes))

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
            n_way: int. The number of classes of an episode.
            k_shot: int. The number of support examples of a class.
            q_query: int. The number of query examples of a class. No example is
                in both sets.
            rotations: bool. Whether to turn each class of an episode by 0, 90,
                180 or 270 degrees at random. Support and query examples of a
                class turn alike. Defaults to `False`.
            seed: int. See `TaskDistribution`. Defaults to `0`.

        Returns:
            An `Episodes` object.

        Raises:
            ValueError: See `Episodes`.
        """
        return Episodes(
            self._examples,
            n_way,
            k_shot,
            q_query,
            rotations=rotations,
            seed=seed,
        )

    @classmethod
    def _of(cls, examples: LabelledExamples) -> "ClassPool":
        pool = object.__new__(cls)
        pool._examples = examples
        return pool
