"""Draws support from before a moment, and query from after it."""

import numpy as np
import tensorflow as tf

from keras_maml.tasks.draw_rules import Draw
from keras_maml.tasks.draw_rules import Sizes
from keras_maml.tasks.draw_rules import below
from keras_maml.tasks.shuffled import shuffled
from keras_maml.tasks.task_distribution import split_seed
from keras_maml.tasks.task_rows import TaskRows
from keras_maml.tasks.task_rows import on_cpu


class _Cuts:
    """Takes the last rows before a cut as support, and later ones as query.

    Args:
        rows: `TaskRows`, whose cells are in the order of time.
        support: `Sizes`.
        query: `Sizes`.
        only_first: bool. Whether to cut as soon as the support set is full,
            in place of at a random moment.
        gap: int, how many rows after a cut are left out.

    Attributes:
        enough, support_high, query_high: see `AtRandom`.
    """

    def __init__(
        self,
        rows: TaskRows,
        support: Sizes,
        query: Sizes,
        only_first: bool,
        gap: int = 0,
    ) -> None:
        self._counts = on_cpu(rows.counts)
        self._support, self._query = support, query
        self._only_first, self._gap = only_first, gap
        self._most = most = int(rows.counts.max()) - gap
        self.support_high = support.high or max(most - query.low, 1)
        self.query_high = query.high or max(most - support.low, 1)
        self._prepare(rows)

    def _prepare(self, rows: TaskRows) -> None:
        """Finds the cuts, and which tasks have `enough`."""
        raise NotImplementedError

    def _cut(self, seed: tf.Tensor, tasks: tf.Tensor) -> tf.Tensor:
        """Returns how many rows of each cell are before the cut."""
        raise NotImplementedError

    def draw(self, seed: tf.Tensor, tasks: tf.Tensor) -> tuple[Draw, Draw]:
        """Returns the support and the query rows of some tasks."""
        seeds = split_seed(seed, 2)
        counts = tf.gather(self._counts, tasks)
        before = self._cut(seeds[0], tasks)[..., None]
        place = before - 1 - tf.range(self.support_high)
        support = Draw(tf.maximum(place, 0), place >= 0)
        later = tf.maximum(counts[..., None] - before - self._gap, 0)
        number = tf.range(self.query_high) + tf.zeros_like(before)
        exists = number < later
        if self._query.high is not None:
            number = shuffled(seeds[1], number, later[..., 0], self._most)
        place = tf.where(exists, before + self._gap + number, 0)
        return support, Draw(place, exists)


class CellCuts(_Cuts):
    """Cuts each cell by itself: recordings that no clock relates."""

    def _prepare(self, rows):
        # The last cut that leaves enough for the query.
        last = rows.counts - self._gap - self._query.low
        self.enough = ((last >= self._support.low) | (rows.counts == 0)).all(1)
        first = np.clip(last, 0, self.support_high)
        self._first = on_cpu(first.astype("int32"))
        choices = np.maximum(last - first, 0) + 1
        self._choices = on_cpu(choices.astype("int32"))

    def _cut(self, seed, tasks):
        first = tf.gather(self._first, tasks)
        if self._only_first:
            return first
        return first + below(seed, tf.gather(self._choices, tasks))


class TaskCuts(_Cuts):
    """Cuts the clock of a task, at one moment for all its cells.

    Rows of the same moment are never parted.
    """

    def _prepare(self, rows):
        every_row, task, cell = rows.with_cells()
        moment = rows.order[every_row]
        sort = np.lexsort((moment, task))
        moment, cell = moment[sort], cell[sort]
        totals = rows.counts.sum(1)
        begins = np.repeat(np.cumsum(totals) - totals, totals)
        is_cut = np.r_[False, moment[1:] > moment[:-1]]
        is_cut &= np.arange(len(sort)) > begins
        before = np.empty((len(sort), rows.counts.shape[1]), "int32")
        full = np.ones(len(sort), bool)
        for number in range(before.shape[1]):
            seen = np.r_[0, np.cumsum(cell == number)]
            before[:, number] = seen[:-1] - seen[begins]
            count = rows.counts[task, number]
            later = count - before[:, number]
            is_cut &= (count == 0) | (
                (before[:, number] >= self._support.low)
                & (later >= self._query.low)
            )
            full &= (count == 0) | (before[:, number] >= self.support_high)
        places = np.flatnonzero(is_cut)
        if self._only_first:
            # The first with a full support set, or else the fullest.
            full, task_of = full[places], task[places]
            rank = np.where(full, places, -places)
            best = np.lexsort((rank, ~full, task_of))
            _, index = np.unique(task_of[best], return_index=True)
            places = places[best[index]]
        cuts = np.bincount(task[places], minlength=rows.num_tasks)
        self.enough = cuts > 0
        self._before = on_cpu(before[places])
        self._choices = on_cpu(cuts.astype("int32"))
        self._starts = on_cpu((np.cumsum(cuts) - cuts).astype("int32"))

    def _cut(self, seed, tasks):
        chosen = below(seed, tf.gather(self._choices, tasks))
        return tf.gather(self._before, tf.gather(self._starts, tasks) + chosen)
