"""Tasks whose examples are rows of a table, or windows of recordings."""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_maml.tasks.fill_missing import FillMissing
from keras_maml.tasks.shuffled import in_rounds
from keras_maml.tasks.table_examples import moments_of
from keras_maml.tasks.table_settings import TableSettings
from keras_maml.tasks.table_settings import check_size
from keras_maml.tasks.table_settings import numbers_of
from keras_maml.tasks.task_distribution import BLOCK
from keras_maml.tasks.task_distribution import TaskDistribution
from keras_maml.tasks.task_distribution import permutations
from keras_maml.tasks.task_distribution import split_seed
from keras_maml.tasks.task_rows import TaskRows
from keras_maml.tasks.task_rows import on_cpu
from keras_maml.validation import check_choice
from keras_maml.validation import check_integer
from keras_maml.validation import check_seed


class TableTasks(TaskDistribution):
    """Tasks of a table: people, machines, shops, patients.

    To make one, call `tasks.from_table` or `tasks.from_recordings`. Each
    episode is of one task. Of n tasks, episodes 0 to n − 1 hold each task once,
    in random order, and so do episodes n to 2n − 1, and so on. Tables that come
    from one table share the memory of its rows.

    If sets differ in size, the smaller ones are padded: `x` has
    `"support_weight"`, and an episode is `(x, y, sample_weight)`. Both are 0
    for rows of padding, which are copies of others.

    Args:
        examples: what rows hold.
        rows: the rows of each task.
        make_rule: function of `TaskRows` and two `Sizes`, which returns how
            episodes draw rows.
        settings: `TableSettings`.
        left_out: names of tasks that have too few rows.

    Attributes:
        names: list of strings, the tasks.
        left_out: list of strings, the tasks that have too few rows.
        class_names: list of strings, or `None` for a regression.
        groups: array of shape `(tasks,)`, the group of each task.
        category_names: dict from each column of `categories` to its names. The
            first one has code 1.

    Raises:
        ValueError: See `tasks.from_table`.

    Example:

    >>> import numpy as np
    >>> from keras_maml import tasks
    >>> rng = np.random.default_rng(0)
    >>> table = tasks.from_table(
    ...     {
    ...         "shop": np.repeat(["a", "b", "c", "d"], 30),
    ...         "price": rng.normal(size=120),
    ...         "sold": rng.normal(size=120),
    ...     },
    ...     task="shop", target="sold", support=5, query=10,
    ... )
    >>> train, test = table.split(3, 1, seed=0)
    >>> x, y = next(iter(train.batch(2)))
    >>> x["support_x"].shape, y.shape
    (TensorShape([2, 5, 1]), TensorShape([2, 10, 1]))
    """

    def __init__(
        self,
        examples: Any,
        rows: TaskRows,
        make_rule: Callable,
        settings: TableSettings,
        left_out: Sequence[str] = (),
    ) -> None:
        check_seed(settings.seed)
        super().__init__(settings.seed)
        check_choice("cut", settings.cut, ("random", "first"))
        check_choice("too_few", settings.too_few, ("raise", "leave_out"))
        self._examples, self._make_rule = examples, make_rule
        self._settings = settings
        sizes = [
            check_size(name, getattr(settings, name))
            for name in ("support", "query")
        ]
        self._rows, self._rule, few = self._enough(rows, sizes)
        self.left_out = [*left_out, *few]
        self._starts = on_cpu(self._rows.starts)
        # Whether sets may have padding.
        absent = bool((self._rows.counts == 0).any())
        self._is_padded = [absent or s.low != s.high for s in sizes]

    @property
    def names(self) -> list[str]:
        """The name of each task."""
        return self._rows.names

    @property
    def groups(self) -> np.ndarray:
        """The group of each task."""
        return self._rows.groups

    @property
    def class_names(self) -> list[str] | None:
        """The name of each class, or `None` for a regression."""
        return self._examples.targets.class_names

    @property
    def category_names(self) -> dict[str, list[str]]:
        """The names of each column of `categories`; the first has code 1."""
        return self._examples.category_names

    def task_names(self, episodes: Sequence[int]) -> list[str]:
        """Returns the names of the tasks of some episodes.

        Args:
            episodes: sequence of ints, numbers of episodes.

        Returns:
            A list of strings.

        Raises:
            ValueError: If a number is negative or not an integer.
        """
        return [self.names[task] for task in self._tasks_of(episodes)]

    def group_names(self, episodes: Sequence[int]) -> list[str] | None:
        """Returns the names of the groups of the tasks of some episodes.

        Args:
            episodes: as in `task_names`.

        Returns:
            A list of strings. `None` if each task is a group of its own.

        Raises:
            ValueError: As `task_names`.
        """
        tasks = self._tasks_of(episodes)
        if len(np.unique(self.groups)) == len(self.groups):
            return None
        return [str(self.groups[task]) for task in tasks]

    def _tasks_of(self, episodes):
        numbers = [check_integer("episodes", n, minimum=0) for n in episodes]
        numbers = tf.constant(numbers, tf.int64, [len(numbers)])
        return in_rounds(self.seed, numbers, self._rows.num_tasks).numpy()

    def replace(self, **settings: Any) -> "TableTasks":
        """Returns the same tasks with other episodes.

        Args:
            **settings: `support`, `query`, `cut`, `too_few`, `preprocess` or
                `seed`; see `tasks.from_table`.

        Returns:
            A `TableTasks`.

        Raises:
            ValueError: If there is no such setting, or see `tasks.from_table`.
        """
        unknown = sorted(set(settings) - set(TableSettings._fields))
        if unknown:
            raise ValueError(
                f"`replace` takes {TableSettings._fields}. Received: {unknown}"
            )
        return self._like(self._rows, self._settings._replace(**settings))

    def split(
        self, *sizes: int | float, seed: int = 0
    ) -> tuple["TableTasks", ...]:
        """Splits the tasks into tables that have no group in common.

        Args:
            *sizes: ints, the number of groups of each table; or floats, their
                shares of all groups. Without a column of groups, each task is
                a group. Groups that are left over are in no table.
            seed: int. Shuffles the groups. Defaults to `0`.

        Returns:
            One `TableTasks` for each of `sizes`.

        Raises:
            ValueError: If a size is no positive number, there are not enough
                groups for each table to have one, or `seed` is not an integer
                between 0 and 2**32 - 1.
        """
        order = self._shuffled_groups(seed)
        numbers = numbers_of(sizes, len(order))
        ends = np.cumsum(numbers)
        return tuple(
            self._of_groups(order[end - number : end])
            for number, end in zip(numbers, ends)
        )

    def folds(
        self, k: int, seed: int = 0
    ) -> Iterator[tuple["TableTasks", "TableTasks"]]:
        """Parts the groups into k folds, and tests on each in turn.

        Args:
            k: int. The number of folds, at least 2.
            seed: int. Shuffles the groups. Defaults to `0`.

        Yields:
            k pairs `(train, test)` of `TableTasks`. Each task is in one `test`.

        Raises:
            ValueError: If there are fewer than k groups, or see `split`.
        """
        order = self._shuffled_groups(seed)
        check_integer("k", k, minimum=2, maximum=len(order))
        return (
            (
                self._of_groups(np.setdiff1d(order, fold)),
                self._of_groups(fold),
            )
            for fold in np.array_split(order, k)
        )

    def leave_one_task_out(
        self,
    ) -> Iterator[tuple["TableTasks", "TableTasks"]]:
        """Tests on each task in turn: with groups, on each group.

        Yields:
            A pair `(train, test)` of `TableTasks` for each group, in the order
            of their names.

        Raises:
            ValueError: If there are fewer than 2 groups.
        """
        groups = np.unique(self.groups)
        check_integer("groups", len(groups), minimum=2)
        return (
            (
                self._of_groups(np.setdiff1d(groups, [group])),
                self._of_groups([group]),
            )
            for group in groups
        )

    def normalization(self) -> keras.layers.Normalization:
        """Makes a layer that scales inputs by the mean and variance here.

        Call it on the training tasks: then nothing is known of the others. As
        the first layer of the learner, it becomes a part of the model that is
        exported, which takes the table's own units.

        Returns:
            A `keras.layers.Normalization` over the last axis of the columns of
            numbers. Missing values do not count.

        Raises:
            ValueError: If there is no column of numbers.
        """
        mean, variance = self._moments()
        return keras.layers.Normalization(mean=mean, variance=variance)

    def target_rescaling(self) -> keras.layers.Rescaling:
        """Makes a layer that gives a regression the units of its targets.

        As the last layer of a learner, it multiplies by the standard deviation
        s of the targets here and adds their mean. Call it on the training
        tasks. It makes the gradient of a squared error s² times as large, so
        divide the inner rate by `scale ** 2`.

        Returns:
            A `keras.layers.Rescaling`.

        Raises:
            ValueError: If the targets are classes, or there are several.
        """
        values = self._examples.targets.values
        if self.class_names is not None or values.shape[1] != 1:
            raise ValueError(
                "`target_rescaling` needs a regression of one number. "
                f"Received: classes {self.class_names} or targets of shape "
                f"{values.shape}"
            )
        mean, variance = moments_of(values, self._rows.with_cells()[0])
        scale = float(np.sqrt(variance[0])) or 1.0
        return keras.layers.Rescaling(scale, offset=float(mean[0]))

    def fill_missing(self) -> FillMissing:
        """Makes a layer that puts the mean of each column here for NaN.

        Call it on the training tasks, and pass it as `preprocess` to `replace`
        of all tables.

        Returns:
            A `FillMissing`.

        Raises:
            ValueError: If there is no column of numbers.
        """
        return FillMissing(self._moments()[0])

    def _moments(self):
        rows = self._rows.with_cells()[0]
        return [m.tolist() for m in self._examples.moments(rows)]

    def _enough(self, rows, sizes):
        """Returns rows of tasks that have enough, their rule and the others."""
        rule = self._make_rule(rows, *sizes, self._settings.cut)
        few = [rows.names[task] for task in np.flatnonzero(~rule.enough)]
        if not few:
            return rows, rule, few
        if self._settings.too_few == "raise" or len(few) == rows.num_tasks:
            listed = ", ".join(few[:20]) + (", ..." if len(few) > 20 else "")
            raise ValueError(
                f"{len(few)} of {rows.num_tasks} tasks have too few rows: "
                f'{listed}. Ask for fewer rows, or pass too_few="leave_out". '
                f"Received: support={self._settings.support}, "
                f"query={self._settings.query}"
            )
        rows = rows.subset(np.flatnonzero(rule.enough))
        return rows, self._make_rule(rows, *sizes, self._settings.cut), few

    def _like(self, rows, settings):
        return TableTasks(
            self._examples, rows, self._make_rule, settings, self.left_out
        )

    def _of_groups(self, groups):
        tasks = np.flatnonzero(np.isin(self.groups, groups))
        return self._like(self._rows.subset(tasks), self._settings)

    def _shuffled_groups(self, seed):
        groups = np.unique(self.groups)
        # NumPy promises that `RandomState` never changes; `Generator` may.
        return np.random.RandomState(check_seed(seed)).permutation(groups)

    def _draw(self, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        numbers = seed[1] * BLOCK + tf.range(BLOCK, dtype=tf.int64)
        tasks = in_rounds(self.seed, numbers, self._rows.num_tasks)
        tasks = tf.ensure_shape(tasks, [BLOCK])
        seeds = split_seed(seed, 2)
        draws = self._rule.draw(seeds[0], tasks)
        starts = tf.gather(self._starts, tasks)[..., None]
        drawn = {"tasks": tasks}
        for part, (places, exists) in zip(("support", "query"), draws):
            # Padding is the first row of its cell.
            places = starts + tf.where(exists, places, 0)
            rows = tf.gather(self._rows.rows, places)
            drawn[f"{part}_rows"] = tf.reshape(rows, [BLOCK, -1])
            exists = tf.cast(exists, tf.float32)
            drawn[f"{part}_weight"] = tf.reshape(exists, [BLOCK, -1])
        # The support set may be used in parts.
        width = drawn["support_rows"].shape[1]
        order = permutations(seeds[1], BLOCK, width)
        for name in ("support_rows", "support_weight"):
            drawn[name] = tf.gather(drawn[name], order, batch_dims=1)
        return drawn

    def _realize(self, drawn):
        x = {
            "support_x": self._inputs(drawn["support_rows"]),
            "support_y": self._targets(drawn["support_rows"]),
            "query_x": self._inputs(drawn["query_rows"]),
        }
        support_is_padded, query_is_padded = self._is_padded
        if support_is_padded:
            x["support_weight"] = drawn["support_weight"]
        y = self._targets(drawn["query_rows"])
        return (x, y, drawn["query_weight"]) if query_is_padded else (x, y)

    def _inputs(self, rows):
        x = self._examples.inputs(rows)
        preprocess = self._settings.preprocess
        return x if preprocess is None else preprocess(x)

    def _targets(self, rows):
        return tf.gather(self._examples.targets.values, rows)
