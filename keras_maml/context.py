"""Context parameters: inputs of the learner that each task adapts."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_maml.validation import check_integer


@keras.saving.register_keras_serializable(package="keras_maml")
class ContextParameters(keras.layers.Layer):
    """Context parameters φ, which are 0 at the start of every task.

    The layer outputs the same `units` numbers for each example of its input.
    Only the inner loop moves these numbers. The outer loop trains the weights
    that use them. Concatenate the output to features, or compute scales and
    shifts of feature maps from it.

    Args:
        units: int, the number of context parameters.
        **kwargs: further arguments of `keras.layers.Layer`.

    Input shape: `(batch, ...)`. Output shape: `(batch, units)`.

    Raises:
        ValueError: if `units` is not a positive integer.

    Example:

    ```python
    x = keras.Input((1,))
    context = keras_maml.ContextParameters(5)(x)
    h = keras.layers.Concatenate()([x, context])
    h = keras.layers.Dense(40, activation="relu")(h)
    learner = keras.Model(x, keras.layers.Dense(1)(h))
    meta_model = keras_maml.MetaModel(
        learner, adapted_weights="context", inner_optimizer=1.0
    )
    ```

    Reference:
        Zintgraf et al., 2019, "Fast Context Adaptation via Meta-Learning",
        section 3, equations 3 and 4.
    """

    def __init__(self, units: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = check_integer("units", units)

    def build(self, input_shape: Sequence[int | None]) -> None:
        self.context = self.add_weight(
            shape=(self.units,), initializer="zeros", name="context"
        )

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        batch = tf.shape(tf.nest.flatten(inputs)[0])[0]
        context = tf.convert_to_tensor(self.context)
        return tf.broadcast_to(context, [batch, self.units])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable(package="keras_maml")
class ContextInput(ContextParameters):
    """`ContextParameters` in files of version 0.1; not for new code.

    Keras finds the weights of a layer in a file by the name of its class.
    """
