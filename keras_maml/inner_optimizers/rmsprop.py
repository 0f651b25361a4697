"""RMSprop in the inner loop."""

from typing import Any

import keras
import tensorflow as tf

from keras_maml.inner_optimizers.gradient_rule import GradientRule
from keras_maml.inner_optimizers.gradient_rule import LearningRate
from keras_maml.validation import check_bool
from keras_maml.validation import check_number


@keras.saving.register_keras_serializable(package="keras_maml")
class RMSprop(GradientRule):
    """Divides steps by the running root mean square of the gradients.

    Args:
        learning_rate: float, schedule or `LearnedRate`, as in `GradientRule`.
            Defaults to `0.001`.
        rho: float, at least 0 and below 1, the decay of the mean square.
            Defaults to `0.9`.
        momentum: float, at least 0 and below 1. Defaults to `0.0`.
        epsilon: float above 0, added under the root. Defaults to `1e-7`.
        centered: bool. Whether to use the variance instead of the mean
            square. Defaults to `False`.
        **kwargs: `weight_decay` and clipping arguments of `GradientRule`.

    Raises:
        ValueError: if an argument does not have this form.

    Example:

    ```python
    rule = keras_maml.inner_optimizers.RMSprop(learning_rate=0.1, rho=0.0)
    weights = [tf.constant([1.0])]
    weights, state = rule.update(
        [tf.constant([5.0])], rule.init(weights), weights, 0
    )
    # weights[0] is now [0.9].
    ```

    Reference:
        Hinton, 2012, "Neural Networks for Machine Learning", lecture 6;
        centered: Graves, 2013, "Generating Sequences With Recurrent Neural
        Networks", equations 38 to 45.
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        rho: float = 0.9,
        momentum: float = 0.0,
        epsilon: float = 1e-7,
        centered: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, **kwargs)
        self.rho = check_number("rho", rho, minimum=0, below=1)
        self.momentum = check_number("momentum", momentum, minimum=0, below=1)
        self.epsilon = check_number("epsilon", epsilon, above=0)
        self.centered = check_bool("centered", centered)

    def slots(self, weight: tf.Tensor) -> tuple[tf.Tensor, ...]:
        # The mean square, the mean if centered, and the velocity if any.
        count = 1 + bool(self.centered) + bool(self.momentum)
        return (tf.zeros_like(weight),) * count

    def step(
        self,
        gradient: tf.Tensor,
        slots: tuple[tf.Tensor, ...],
        weight: tf.Tensor,
        rate: tf.Tensor,
        number: int | tf.Tensor,
    ) -> tuple[tf.Tensor, tuple[tf.Tensor, ...]]:
        square, *others = slots
        square = self.rho * square + (1 - self.rho) * tf.square(gradient)
        new_slots = [square]
        variance = square
        if self.centered:
            mean = self.rho * others[0] + (1 - self.rho) * gradient
            new_slots.append(mean)
            variance -= tf.square(mean)
        velocity = rate * gradient / tf.sqrt(variance + self.epsilon)
        if self.momentum:
            velocity += self.momentum * others[-1]
            new_slots.append(velocity)
        return weight - velocity, tuple(new_slots)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "rho": self.rho,
            "momentum": self.momentum,
            "epsilon": self.epsilon,
            "centered": self.centered,
        }
