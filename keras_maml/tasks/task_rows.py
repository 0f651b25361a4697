"""Which rows belong to which task, and to which part of it."""

import numpy as np
import tensorflow as tf


class TaskRows:
    """The rows of each task, cell by cell.

    A cell is a part of a task from which every episode takes the same number of
    rows: the whole task, one of its classes, or one of its recordings. Subsets
    share the memory of `rows`.

    Args:
        tasks: int array of shape `(rows,)`, the task of each row.
        cells: int array of shape `(rows,)`, the cell of each row within its
            task.
        order: int array of shape `(rows,)`, how rows of a cell are ordered.
        names: sequence of strings, the name of each task.
        groups: array of shape `(tasks,)`. Tasks of one group never stand on
            two sides of a split.
        units: int array of shape `(rows,)`, the recording of each row.
            Defaults to `None`.

    Attributes:
        rows: int32 tensor of shape `(rows,)`, all rows, cell by cell.
        starts: int32 array of shape `(tasks, cells)`, where in `rows` a cell
            begins. A cell that a task does not have begins with the task.
        counts: int32 array of shape `(tasks, cells)`, the rows of each cell.
    """

    def __init__(self, tasks, cells, order, names, groups, units=None):
        self.names = list(names)
        self.groups = np.asarray(groups)
        self.order, self.units = order, units
        width = int(cells.max()) + 1
        sort = np.lexsort((order, cells, tasks)).astype("int32")
        self.rows = on_cpu(sort)
        self.counts = (
            np.bincount(tasks * width + cells, minlength=len(names) * width)
            .reshape(len(names), width)
            .astype("int32")
        )
        ends = np.cumsum(self.counts).reshape(self.counts.shape)
        starts = ends - self.counts
        self.starts = np.where(self.counts > 0, starts, starts[:, :1]).astype(
            "int32"
        )

    @property
    def num_tasks(self) -> int:
        """The number of tasks."""
        return len(self.names)

    def subset(self, tasks: np.ndarray) -> "TaskRows":
        """Returns the tasks of these numbers, in this order."""
        subset = object.__new__(TaskRows)
        subset.rows, subset.order = self.rows, self.order
        subset.units = self.units
        subset.names = [self.names[task] for task in tasks]
        subset.groups = self.groups[tasks]
        subset.starts = self.starts[tasks]
        subset.counts = self.counts[tasks]
        return subset

    def with_cells(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns the rows of all tasks, and the task and cell of each."""
        totals = self.counts.sum(1)
        starts = self.starts[:, 0]
        shift = np.repeat(starts - (np.cumsum(totals) - totals), totals)
        cells = np.tile(np.arange(self.counts.shape[1]), self.num_tasks)
        return (
            self.rows.numpy()[np.arange(totals.sum()) + shift],
            np.repeat(np.arange(self.num_tasks), totals),
            np.repeat(cells, self.counts.reshape(-1)),
        )


def on_cpu(array: np.ndarray) -> tf.Tensor:
    """Returns a tensor that functions share, in place of a constant in each."""
    with tf.device("CPU:0"):
        return tf.convert_to_tensor(array)
