"""The settings of tasks from tables."""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import numpy as np

from keras_maml.tasks.draw_rules import Sizes
from keras_maml.validation import check_integer

Size = int | tuple[int, int | None]


class TableSettings(NamedTuple):
    """The arguments of `from_table` and `from_recordings` about episodes.

    Attributes:
        support: int, or pair of ints.
        query: int, or pair of ints.
        cut: `"random"` or `"first"`.
        too_few: `"raise"` or `"leave_out"`.
        preprocess: function of inputs, or `None`.
        seed: int.
    """

    support: Size
    query: Size
    cut: str
    too_few: str
    preprocess: Callable | None
    seed: int


def check_size(name: str, value: Any) -> Sizes:
    """Returns `Sizes`, or raises a ValueError that names the argument."""
    pair = value if isinstance(value, tuple | list) else (value, value)
    if len(pair) != 2:
        raise ValueError(
            f"`{name}` must be an integer or a pair (least, most). Received: "
            f"{name}={value!r}"
        )
    low = check_integer(name, pair[0])
    return Sizes(
        low, None if pair[1] is None else check_integer(name, pair[1], low)
    )


def numbers_of(sizes: Sequence[int | float], groups: int) -> Sequence[int]:
    """Returns how many groups each of `sizes` is; see `TableTasks.split`."""
    if sizes and all(isinstance(size, float) for size in sizes):
        ends = np.cumsum(sizes)
        if min(sizes) > 0 and ends[-1] <= 1 + 1e-9:
            bounds = np.round(np.r_[0, ends] * groups).astype(int)
            numbers = np.diff(bounds)
        else:
            numbers = [0]
    else:
        numbers = [check_integer("sizes", size) for size in sizes] or [0]
    if min(numbers) < 1 or sum(numbers) > groups:
        raise ValueError(
            f"`sizes` must be numbers or shares of the {groups} groups of "
            "tasks, at least one group for each table. Received: "
            f"sizes={sizes}"
        )
    return numbers
