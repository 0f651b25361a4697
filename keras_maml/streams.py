"""What is known of a dataset whose episodes have numbers."""

import functools
from collections.abc import Callable

import tensorflow as tf


class EpisodeStream:
    """The episodes of a `tf.data.Dataset` of meta-batches.

    Args:
        batch: function `(tasks, count, start, numbered=False)` that returns
            such a dataset. If `numbered`, the `x` of a meta-batch has the
            numbers of its episodes as `"episode"`.
        tasks: int, the number of episodes in a meta-batch.
        count: int, the number of episodes in all, or `None` if endless.
        start: int, the number of the first episode.
        has_numbers: bool. Whether the dataset is one of `numbered`.
    """

    def __init__(
        self,
        batch: Callable[..., tf.data.Dataset],
        tasks: int,
        count: int | None,
        start: int,
        has_numbers: bool = False,
    ) -> None:
        self.batch = batch
        self.tasks = tasks
        self.count = count
        self.start = start
        self.has_numbers = has_numbers

    def numbered(self) -> tf.data.Dataset:
        """Returns the same episodes with their numbers."""
        batch = functools.partial(self.batch, numbered=True)
        stream = EpisodeStream(batch, self.tasks, self.count, self.start, True)
        return stream.mark(batch(self.tasks, self.count, self.start))

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
