"""Endless datasets, and what is known of those whose episodes have numbers."""

from collections.abc import Callable
from collections.abc import Sequence

import tensorflow as tf


class EpisodeStream:
    """The episodes of a `tf.data.Dataset` of meta-batches.

    Args:
        slices: function `(tasks, count, start, low, high, numbered)` that
            returns a dataset of the episodes `low` to `high - 1` of each
            meta-batch, and makes no others. If `numbered`, the `x` of a
            meta-batch has the numbers of its episodes as `"episode"`.
        tasks: int, the number of episodes in a meta-batch.
        count: int, the number of episodes in all, or `None` if endless.
        start: int, the number of the first episode.
        has_numbers: bool, the argument `numbered` of `slices`.
        task_names: function, `task_names` of a `TaskDistribution`. Defaults to
            no names.
        group_names: function, likewise.
    """

    def __init__(
        self,
        slices: Callable[..., tf.data.Dataset],
        tasks: int,
        count: int | None,
        start: int,
        has_numbers: bool = False,
        task_names: Callable[[Sequence[int]], list | None] = lambda _: None,
        group_names: Callable[[Sequence[int]], list | None] = lambda _: None,
    ) -> None:
        self.slices = slices
        self.tasks = tasks
        self.count = count
        self.start = start
        self.has_numbers = has_numbers
        self.task_names = task_names
        self.group_names = group_names

    def dataset(self) -> tf.data.Dataset:
        """Returns the dataset, for which `stream_of` returns this stream."""
        dataset = self._slice(0, self.tasks)
        # Transformations make a new dataset, which is not marked.
        dataset.episode_stream = self
        return dataset

    def numbered(self) -> tf.data.Dataset:
        """Returns the same episodes with their numbers."""
        return self._like(self.count, self.start, True).dataset()

    def after(self, meta_batches: int) -> tf.data.Dataset:
        """Returns the dataset without its first meta-batches."""
        done = meta_batches * self.tasks
        count = None if self.count is None else self.count - done
        return self._like(count, self.start + done, self.has_numbers).dataset()

    def part(self, index: int, parts: int) -> tf.data.Dataset:
        """Returns one of several datasets that share each meta-batch.

        Args:
            index: int, the number of the part.
            parts: int, the number of parts.

        Returns:
            A dataset. Element `i` of all parts, one after the other, are the
            episodes of meta-batch `i`. If the last meta-batch is smaller, a
            part may have no episode of it.

        Raises:
            ValueError: if there are more parts than episodes in a meta-batch.
        """
        if parts > self.tasks:
            raise ValueError(
                "A meta-batch needs a task for each replica. Received: "
                f"meta-batches of {self.tasks} tasks and {parts} replicas"
            )
        low, high = (i * self.tasks // parts for i in (index, index + 1))
        return self._slice(low, high)

    def _like(self, count, start, has_numbers):
        return EpisodeStream(
            self.slices,
            self.tasks,
            count,
            start,
            has_numbers,
            self.task_names,
            self.group_names,
        )

    def _slice(self, low, high):
        return self.slices(
            self.tasks, self.count, self.start, low, high, self.has_numbers
        )


def stream_of(dataset: object) -> EpisodeStream | None:
    """Returns the `EpisodeStream` of a dataset, or `None` if unknown."""
    return getattr(dataset, "episode_stream", None)


def counter(start: int = 0) -> tf.data.Dataset:
    """Returns an endless dataset of the integers from `start`.

    TensorFlow never frees the function within `tf.data.Dataset.counter`, so
    that each `fit` would leave one.
    """
    return tf.data.Dataset.range(start, tf.int64.max).apply(
        tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)
    )
