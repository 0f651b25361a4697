"""A layer that puts a number where one is missing."""

from collections.abc import Sequence
from typing import Any

import keras


@keras.saving.register_keras_serializable(package="keras_maml")
class FillMissing(keras.layers.Layer):
    """Replaces NaN by a number of its column.

    A `MetaModel` refuses data that are not finite. So this layer works before
    the learner: give it to a table as `preprocess`, and apply it to the inputs
    of an exported model. `TableTasks.fill_missing` makes it from the means of
    training tasks.

    Args:
        values: sequence of floats, one for each column (the last axis of the
            inputs).
        **kwargs: arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: float tensor of shape `(..., columns)`, or a dict that holds it
            as `"numbers"`.

    Returns:
        The inputs without NaN.

    Example:

    >>> import numpy as np
    >>> from keras_maml import tasks
    >>> layer = tasks.FillMissing([1.0, 20.0])
    >>> layer(np.array([[np.nan, 30.0], [3.0, np.nan]])).numpy().tolist()
    [[1.0, 30.0], [3.0, 20.0]]
    """

    def __init__(self, values: Sequence[float], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.values = [float(value) for value in values]

    def call(self, inputs):
        if isinstance(inputs, dict):
            return {**inputs, "numbers": self._filled(inputs["numbers"])}
        return self._filled(inputs)

    def _filled(self, x):
        values = keras.ops.convert_to_tensor(self.values, x.dtype)
        return keras.ops.where(keras.ops.isnan(x), values, x)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "values": self.values}
