"""What is known of a dataset whose episodes have numbers."""

from collections.abc import Callable

import tensorflow as tf


class EpisodeStream:
    """The episodes of a `tf.data.Dataset` of meta-batches.

    Args:
        batch: function `(tasks, count, start)` that returns such a dataset.
        tasks: int, the number of episodes in a meta-batch.
        count: int, the number of episodes in all, or `None` if endless.
        start: int, the number of the first episode.
        slices: function `(tasks, count, start, low, high)` that returns a
            dataset of the episodes `low` to `high - 1` of each meta-batch, and
            makes no others. Defaults to `None`: `batch` makes all.
    """

    def __init__(
        self,
        batch: Callable[[int, int | None, int], tf.data.Dataset],
        tasks: int,
        count: int | None,
        start: int,
        slices: Callable[[int, int | None, int, int, int], tf.data.Dataset]
        | None = None,
    ) -> None:
        self.batch = batch
        self.slices = slices
        self.tasks = tasks
        self.count = count
        self.start = start

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
        given = self.tasks, self.count, self.start
        if self.slices is not None:
            return self.slices(*given, low, high)
        return self.batch(*given).map(
            lambda *batch: tf.nest.map_structure(lambda t: t[low:high], batch)
        )

    def mark(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        """Tells `stream_of` that `dataset` holds these episodes."""
        # Transformations make a new dataset, which is not marked.
        dataset.episode_stream = self
        return dataset

    def after(self, meta_batches: int) -> tf.data.Dataset:
        """The dataset without its first meta-batches."""
        done = meta_batches * self.tasks
        count = None if self.count is None else self.count - done
        return self.batch(self.tasks, count, self.start + done)


def stream_of(dataset: object) -> EpisodeStream | None:
    """Returns the `EpisodeStream` of a dataset, or `None` if unknown."""
    return getattr(dataset, "episode_stream", None)
