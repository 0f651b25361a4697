"""Adagrad in the inner loop."""

from typing import Any

import keras
import tensorflow as tf

from keras_maml.inner_optimizers.gradient_rule import GradientRule
from keras_maml.inner_optimizers.gradient_rule import LearningRate
from keras_maml.validation import check_number


@keras.saving.register_keras_serializable(package="keras_maml")
class Adagrad(GradientRule):
    """Steps that shrink with the sum of the squared gradients so far.

    Args:
        learning_rate: float, schedule or `LearnedRate`, as in `GradientRule`.
            Defaults to `0.001`.
        initial_accumulator_value: float, not negative, the initial value of
            the sum. Defaults to `0.1`.
        epsilon: float above 0, added under the root. Defaults to `1e-7`.
        **kwargs: `weight_decay` and clipping arguments of `GradientRule`.

    Raises:
        ValueError: if an argument does not have this form.

    Example:

    ```python
    rule = keras_maml.inner_optimizers.Adagrad(
        learning_rate=0.1, initial_accumulator_value=0.0
    )
    weights = [tf.constant([1.0])]
    weights, state = rule.update(
        [tf.constant([5.0])], rule.init(weights), weights, 0
    )
    # weights[0] is now [0.9].
    ```

    Reference:
        Duchi et al., 2011, "Adaptive Subgradient Methods for Online Learning
        and Stochastic Optimization".
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        initial_accumulator_value: float = 0.1,
        epsilon: float = 1e-7,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, **kwargs)
        self.initial_accumulator_value = check_number(
            "initial_accumulator_value", initial_accumulator_value, minimum=0
        )
        self.epsilon = check_number("epsilon", epsilon, above=0)

    def slots(self, weight: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return (tf.ones_like(weight) * self.initial_accumulator_value,)

    def step(
        self,
        gradient: tf.Tensor,
        slots: tuple[tf.Tensor, ...],
        weight: tf.Tensor,
        rate: tf.Tensor,
        number: int | tf.Tensor,
    ) -> tuple[tf.Tensor, tuple[tf.Tensor, ...]]:
        total = slots[0] + tf.square(gradient)
        return weight - rate * gradient / tf.sqrt(total + self.epsilon), (
            total,
        )

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "initial_accumulator_value": self.initial_accumulator_value,
            "epsilon": self.epsilon,
        }
