"""What the rows of a table hold."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_maml.tasks.labelled_examples import as_inputs
from keras_maml.tasks.task_rows import on_cpu

# Rows that pass through float64 at a time.
_CHUNK = 65_536


class Targets:
    """The targets of rows: class numbers, or float32 of shape `(rows, 1)`.

    Args:
        values: array of shape `(rows,)` or `(rows, targets)`.
        class_names: list of strings, or `None` for a regression.
    """

    def __init__(
        self, values: np.ndarray, class_names: Sequence[str] | None
    ) -> None:
        self.class_names = None if class_names is None else list(class_names)
        self.values = on_cpu(values)

    def of(self, rows: np.ndarray) -> "Targets":
        """Returns the targets of some rows, which may repeat."""
        return Targets(self.values.numpy()[rows], self.class_names)


class TableExamples:
    """Rows of a table as inputs and targets.

    Args:
        x: float32 or uint8 array of shape `(rows, *input_shape)`.
        categories: dict from the name of a column to its distinct names and
            an int32 array of shape `(rows,)`. If there are any, inputs are a
            dict of the arrays and of `"numbers"`.
        targets: `Targets`.

    Attributes:
        targets: `Targets`.
        category_names: dict from the name of a column to its distinct names.
    """

    def __init__(
        self,
        x: np.ndarray | None,
        categories: dict[str, tuple[list[str], np.ndarray]],
        targets: Targets,
    ) -> None:
        self.targets = targets
        self._x: Any = None if x is None else on_cpu(x)
        self._categories = {
            name: on_cpu(codes) for name, (_, codes) in categories.items()
        }
        self.category_names = {
            name: names for name, (names, _) in categories.items()
        }

    def inputs(self, rows: tf.Tensor) -> Any:
        """Returns the inputs of some rows, `(*rows.shape, *input_shape)`."""
        if not self._categories:
            return as_inputs(tf.gather(self._x, rows))
        x = {} if self._x is None else {"numbers": self._x}
        return {
            name: as_inputs(tf.gather(value, rows))
            for name, value in {**x, **self._categories}.items()
        }

    def moments(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the mean and variance of the numbers of some rows."""
        if self._x is None:
            raise ValueError(
                "A table without columns of numbers has no mean. Received: "
                f"categories {sorted(self._categories)}"
            )
        return moments_of(self._x, rows)


def moments_of(
    values: tf.Tensor, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and variance over rows and all axes but the last.

    Missing values do not count. Rows are read some at a time.
    """
    total = np.zeros((3, values.shape[-1]))
    axes = tuple(range(len(values.shape) - 1))
    # About the first row, so that large numbers keep their digits.
    origin = None
    for start in range(0, len(rows), _CHUNK):
        part = as_inputs(tf.gather(values, rows[start : start + _CHUNK]))
        part = part.numpy().astype("float64")
        if origin is None:
            first = part.reshape(-1, part.shape[-1])
            present = np.isfinite(first)
            origin = first[present.argmax(0), np.arange(first.shape[1])]
            origin = np.nan_to_num(origin)
        counts = np.isfinite(part)
        part = np.where(counts, part - origin, 0.0)
        total += [counts.sum(axes), part.sum(axes), (part**2).sum(axes)]
    count, first_moment, second_moment = total
    count = np.maximum(count, 1)
    mean = first_moment / count
    variance = np.maximum(second_moment / count - mean**2, 0.0)
    return mean + origin, variance
