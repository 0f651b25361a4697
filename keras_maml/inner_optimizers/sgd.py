"""Gradient descent in the inner loop, with and without momentum."""

from typing import Any

import keras
import tensorflow as tf

from keras_maml.inner_optimizers.gradient_rule import GradientRule
from keras_maml.inner_optimizers.gradient_rule import LearningRate
from keras_maml.validation import check_bool
from keras_maml.validation import check_number


@keras.saving.register_keras_serializable(package="keras_maml")
class SGD(GradientRule):
    """Gradient descent, `w ← w - learning_rate · g`, optionally with momentum.

    Args:
        learning_rate: float, schedule or `LearnedRate`, as in `GradientRule`.
            Defaults to `0.01`.
        momentum: float, at least 0 and below 1. Defaults to `0.0`.
        nesterov: bool. Whether to use Nesterov momentum. Defaults to `False`.
        **kwargs: `weight_decay` and clipping arguments of `GradientRule`.

    Raises:
        ValueError: if an argument does not have this form.

    Example:

    ```python
    rule = keras_maml.inner_optimizers.SGD(learning_rate=0.5)
    weights = [tf.constant([1.0, 2.0])]
    state = rule.init(weights)
    weights, state = rule.update([tf.constant([2.0, 2.0])], state, weights, 0)
    # weights[0] is now [0.0, 1.0].
    ```

    Reference:
        Finn et al., 2017, "Model-Agnostic Meta-Learning for Fast Adaptation of
        Deep Networks", equation 1.
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.01,
        momentum: float = 0.0,
        nesterov: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, **kwargs)
        self.momentum = check_number("momentum", momentum, minimum=0, below=1)
        self.nesterov = check_bool("nesterov", nesterov)

    def slots(self, weight: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return (tf.zeros_like(weight),) if self.momentum else ()

    def step(
        self,
        gradient: tf.Tensor,
        slots: tuple[tf.Tensor, ...],
        weight: tf.Tensor,
        rate: tf.Tensor,
        number: int | tf.Tensor,
    ) -> tuple[tf.Tensor, tuple[tf.Tensor, ...]]:
        if not self.momentum:
            return weight - rate * gradient, ()
        velocity = self.momentum * slots[0] - rate * gradient
        if self.nesterov:
            return (
                weight + self.momentum * velocity - rate * gradient,
                (velocity,),
            )
        return weight + velocity, (velocity,)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "momentum": self.momentum,
            "nesterov": self.nesterov,
        }
