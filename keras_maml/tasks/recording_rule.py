"""Draws support and query from different recordings."""

import math

import numpy as np
import tensorflow as tf

from keras_maml.tasks.draw_rules import Draw
from keras_maml.tasks.draw_rules import Sizes
from keras_maml.tasks.draw_rules import below
from keras_maml.tasks.shuffled import shuffled
from keras_maml.tasks.task_distribution import split_seed
from keras_maml.tasks.task_rows import TaskRows
from keras_maml.tasks.task_rows import on_cpu

# Shares of a recording from one row to the next.
_STRIDES = (0.17, 0.29, 0.38, 0.43)


class ByRecording:
    """Gives each recording of a cell to the support set or to the query set.

    The support set gets half of the recordings, and at most one for each of its
    rows. A set takes its rows from its recordings by turns, and of each of them
    in strides from a random row, so that it seldom takes rows close in time.

    Args:
        rows: `TaskRows` with `units`, the recording of each row.
        support: `Sizes`.
        query: `Sizes`.

    Attributes:
        enough, support_high, query_high: see `AtRandom`.
    """

    def __init__(self, rows: TaskRows, support: Sizes, query: Sizes) -> None:
        recordings, fewest, lengths = self._count_recordings(rows)
        half = np.maximum(recordings // 2, 1)
        taken = np.minimum(half, support.high or half).astype("int32")
        others = recordings - taken
        self.enough = (
            (others >= 1)
            & (taken * fewest >= support.low)
            & (others * fewest >= query.low)
            | (recordings == 0)
        ).all(1)
        most = lengths.max()
        self._taken = on_cpu(taken)
        self.support_high = support.high or int((taken * most).max())
        self.query_high = query.high or max(int((others * most).max()), 1)

    def draw(self, seed: tf.Tensor, tasks: tf.Tensor) -> tuple[Draw, Draw]:
        """Returns the support and the query rows of some tasks."""
        taken = tf.gather(self._taken, tasks)[..., None]
        total = tf.gather(self._recordings, tasks)[..., None]
        others = tf.maximum(total - taken, 1)
        turn = tf.range(self.support_high) + tf.zeros_like(total)
        support = self._windows(seed, tasks, turn % taken, turn // taken)
        turn = tf.range(self.query_high) + tf.zeros_like(total)
        query = self._windows(
            seed, tasks, taken + turn % others, turn // others
        )
        return support, query

    def _windows(self, seed, tasks, recording, number):
        """Draws row `number` of the recordings at these places."""
        seeds = split_seed(seed, 3)
        total = tf.gather(self._recordings, tasks)
        every = tf.range(self._most) + tf.zeros_like(total)[..., None]
        drawn = shuffled(seeds[0], every, total, self._most)
        drawn += tf.gather(self._firsts, tasks)[..., None]
        lengths = tf.gather(self._lengths, drawn)
        first = below(seeds[1], lengths)
        choice = below(seeds[2], tf.fill(lengths.shape, len(_STRIDES)))
        stride = tf.gather(
            tf.gather(self._strides, drawn), choice, batch_dims=3
        )
        chosen = tf.minimum(recording, self._most - 1)
        drawn, lengths, first, stride = (
            tf.gather(values, chosen, batch_dims=2)
            for values in (drawn, lengths, first, stride)
        )
        place = tf.cast(first, tf.int64) + tf.cast(number, tf.int64) * stride
        place = tf.cast(place % tf.cast(lengths, tf.int64), tf.int32)
        place += tf.gather(self._offsets, drawn)
        exists = (number < lengths) & (total[..., None] > 0)
        return Draw(tf.where(exists, place, 0), exists)

    def _count_recordings(self, rows):
        every_row, task, cell = rows.with_cells()
        units = rows.units[every_row]
        width = rows.counts.shape[1]
        place = task * width + cell
        changes = np.r_[
            True, (units[1:] != units[:-1]) | (place[1:] != place[:-1])
        ]
        begins = np.flatnonzero(changes)
        lengths = np.diff(np.r_[begins, len(units)])
        where = place[begins]
        number = np.bincount(where, minlength=rows.num_tasks * width)
        totals = rows.counts.reshape(-1)
        cell_begins = np.cumsum(totals) - totals
        fewest = np.full(len(number), 2**31 - 1)
        np.minimum.at(fewest, where, lengths)
        recordings = number.reshape(-1, width).astype("int32")
        firsts = np.minimum(np.cumsum(number) - number, len(begins) - 1)
        self._recordings = on_cpu(recordings)
        self._firsts = on_cpu(firsts.reshape(-1, width).astype("int32"))
        self._lengths = on_cpu(lengths.astype("int32"))
        self._most = int(recordings.max())
        self._strides = on_cpu(
            np.array(
                [[_stride(n, share) for share in _STRIDES] for n in lengths]
            )
        )
        offsets = begins - cell_begins[where]
        self._offsets = on_cpu(offsets.astype("int32"))
        return recordings, fewest.reshape(-1, width), lengths


def _stride(length, share):
    """Returns a stride that comes to every row before any row again."""
    stride = max(int(length * share), 1)
    while math.gcd(stride, length) > 1:
        stride += 1
    return np.int64(stride)
