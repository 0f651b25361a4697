"""Training, validation and test tasks."""

import zlib
from typing import Any
from typing import NamedTuple

import tensorflow as tf

# The first episodes of validation and of the test, if a distribution has no
# end. Training starts at 0 and never gets this far.
_VALIDATION_START = 1 << 40
_TEST_START = 1 << 41
# Shares of the tasks of a table.
_SHARES = (0.6, 0.2, 0.2)


class Part(NamedTuple):
    """Training, validation or test tasks.

    Attributes:
        tasks: a `TaskDistribution`.
        start: int, the number of the first episode.
    """

    tasks: Any
    start: int = 0

    def batch(
        self, size: int, count: int | None = None, after: int = 0
    ) -> tf.data.Dataset:
        """Returns a dataset, behind `after` meta-batches."""
        start = self.start + size * after
        return self.tasks.batch(size, count=count, start=start)

    def checksum(self) -> int:
        """Returns a checksum of the first episode, the same in every run."""
        value = 0
        for array in tf.nest.flatten(self.tasks.episode(self.start)):
            if array.dtype == object:
                array = array.astype(bytes)
            value = zlib.crc32(array.tobytes(), value)
        return value


class Parts(NamedTuple):
    """Parts that have no task in common.

    Attributes:
        train, validation, test: see `Part`.
    """

    train: Part
    validation: Part
    test: Part


def parts_of(tasks: Any, folds: int | None, seed: int) -> list[Parts]:
    """Returns the parts of each fold.

    Raises:
        ValueError: if the tasks cannot be parted.
    """
    if isinstance(tasks, (tuple, list)):
        _check_no_folds(folds)
        several = tasks if isinstance(tasks, list) else [tasks]
        if not several or any(len(triple) != 3 for triple in several):
            raise ValueError(
                "`tasks` must be one task distribution; a tuple of training, "
                "validation and test tasks; or a list of such tuples. "
                f"Received: tasks={tasks!r}"
            )
        return [Parts(*map(Part, triple)) for triple in several]
    if hasattr(tasks, "split"):
        if folds is None:
            return [Parts(*map(Part, tasks.split(*_SHARES, seed=seed)))]
        parts = []
        for rest, test in tasks.folds(folds, seed=seed):
            train, validation = _with_validation(rest, folds, seed)
            parts.append(Parts(Part(train), Part(validation), Part(test)))
        return parts
    _check_no_folds(folds)
    if tasks.task_names([0]) is not None:
        raise ValueError(
            "`tasks` must be a tuple of training, validation and test tasks: "
            "different episodes of this distribution share tasks or classes. "
            f"Received: tasks={tasks!r}"
        )
    starts = (0, _VALIDATION_START, _TEST_START)
    return [Parts(*(Part(tasks, start) for start in starts))]


def _with_validation(train, folds, seed):
    """Takes about as many validation tasks as there are test tasks."""
    share = min(0.25, 1 / (folds - 1))
    groups = len(set(train.groups))
    count = max(1, round(share * groups))
    return train.split(groups - count, count, seed=seed)


def _check_no_folds(folds):
    if folds is not None:
        raise ValueError(
            "`folds` needs one table, as `tasks.from_table` returns. "
            f"Received: folds={folds}"
        )
