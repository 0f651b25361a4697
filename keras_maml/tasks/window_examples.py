"""Windows of recordings."""

from typing import Any

import numpy as np
import tensorflow as tf

from keras_maml.tasks.table_examples import Targets
from keras_maml.tasks.table_examples import moments_of
from keras_maml.tasks.task_rows import on_cpu


class WindowExamples:
    """Windows of recordings as inputs, and what they are as targets.

    Windows share the memory of the recordings, also where they overlap.

    Args:
        signal: float32 array of shape `(samples, channels)`, the recordings
            one after another.
        starts: int32 array of shape `(windows,)`, the first sample of each.
        length: int, the samples of a window.
        targets: `Targets` of the windows.
    """

    def __init__(
        self,
        signal: np.ndarray,
        starts: np.ndarray,
        length: int,
        targets: Targets,
    ) -> None:
        self.targets = targets
        self.category_names: dict[str, list[str]] = {}
        self._length = length
        self._signal = on_cpu(signal)
        self._starts = on_cpu(starts)

    def inputs(self, rows: tf.Tensor) -> Any:
        """Returns some windows, `(*rows.shape, length, channels)`."""
        starts = tf.gather(self._starts, rows)
        samples = starts[..., None] + tf.range(self._length)
        return tf.gather(self._signal, samples)

    def moments(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns mean and variance of the samples of some windows."""
        starts = np.sort(self._starts.numpy()[rows])
        # A sample of several windows counts once.
        ends = starts + self._length
        begins = np.maximum(starts, np.r_[0, ends[:-1]])
        counts = ends - begins
        shift = np.repeat(begins - (np.cumsum(counts) - counts), counts)
        return moments_of(self._signal, np.arange(counts.sum()) + shift)
