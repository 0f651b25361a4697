"""Which rows of a task an episode takes as support, and which as query."""

from typing import NamedTuple

import tensorflow as tf

from keras_maml.tasks.shuffled import shuffled
from keras_maml.tasks.task_distribution import uniform
from keras_maml.tasks.task_rows import TaskRows
from keras_maml.tasks.task_rows import on_cpu


class Sizes(NamedTuple):
    """How many rows a set takes of a cell.

    Attributes:
        low: int, what a cell must have at least.
        high: int, what a set takes at most. `None`: all that there are.
    """

    low: int
    high: int | None


class Draw(NamedTuple):
    """Rows of some tasks, each tensor of shape `(tasks, cells, high)`.

    Attributes:
        places: int32 tensor, counted from the start of the cell.
        exists: bool tensor, false for padding.
    """

    places: tf.Tensor
    exists: tf.Tensor


class AtRandom:
    """Draws support and query from all rows of a cell.

    Args:
        rows: `TaskRows`.
        support: `Sizes`.
        query: `Sizes`.

    Attributes:
        enough: bool array of shape `(tasks,)`.
        support_high: int, the most support rows of a cell.
        query_high: int, the most query rows of a cell.
    """

    def __init__(self, rows: TaskRows, support: Sizes, query: Sizes) -> None:
        self._counts = on_cpu(rows.counts)
        self._support, self._query = support, query
        fits = rows.counts >= support.low + query.low
        self.enough = (fits | (rows.counts == 0)).all(1)
        self._most = most = int(rows.counts.max())
        self.support_high = support.high or max(most - query.low, 1)
        self.query_high = query.high or max(most - support.low, 1)

    def draw(self, seed: tf.Tensor, tasks: tf.Tensor) -> tuple[Draw, Draw]:
        """Returns the support and the query rows of some tasks."""
        counts = tf.gather(self._counts, tasks)
        support = tf.clip_by_value(
            counts - self._query.low, 0, self.support_high
        )
        query = tf.clip_by_value(counts - support, 0, self.query_high)
        place = tf.range(self.support_high) + 0 * counts[..., None]
        after = tf.range(self.query_high) + support[..., None]
        return (
            Draw(
                shuffled(seed, place, counts, self._most),
                place < support[..., None],
            ),
            Draw(
                shuffled(seed, after, counts, self._most),
                after < (support + query)[..., None],
            ),
        )


def below(seed: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
    """Draws an integer from `range(size)` for each size, int32."""
    drawn = uniform(seed, sizes.shape) * tf.cast(sizes, tf.float32)
    return tf.minimum(tf.cast(drawn, tf.int32), tf.maximum(sizes - 1, 0))
