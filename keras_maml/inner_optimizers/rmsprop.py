"""RMSprop in the inner loop."""

from typing import Any

import keras
import tensorflow as tf

from keras_maml.inner_optimizers.gradient_rule import GradientRule
from keras_maml.validation import check_bool
from keras_maml.validation import check_number


@keras.saving.register_keras_serializable(package="keras_maml")
class RMSprop(GradientRule):
    """Steps in units of the gradients' running root mean square.

    Args:
        learning_rate: float, schedule or `LearnedRate`, see `GradientRule`.
            Defaults to `0.001`.
        rho: float, at least 0 and below 1: decay of the mean square. Defaults
            to `0.9`.
        momentum: float, at least 0 and below 1. Defaults to `0.0`.
        epsilon: float above 0, added under the root. Defaults to `1e-7`.
        centered: bool. Whether the variance takes the mean square's place.
        **kwargs: `weight_decay` and clipping, see `GradientRule`.

    Raises:
        ValueError: if an argument is not of that form.

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
        learning_rate: Any = 0.001,
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

    def slots(self, weight: Any) -> tuple:
        # The mean square; the mean if centered; the velocity if any.
        slots = 1 + bool(self.centered) + bool(self.momentum)
        return (tf.zeros_like(weight),) * slots

    def step(
        self, gradient: Any, slots: tuple, weight: Any, rate: Any, number: Any
    ) -> tuple[Any, tuple]:
        square, *others = slots
        square = self.rho * square + (1 - self.rho) * tf.square(gradient)
        new_slots = [square]
        spread = square
        if self.centered:
            mean = self.rho * others[0] + (1 - self.rho) * gradient
            new_slots.append(mean)
            spread -= tf.square(mean)
        move = rate * gradient / tf.sqrt(spread + self.epsilon)
        if self.momentum:
            move += self.momentum * others[-1]
            new_slots.append(move)
        return weight - move, tuple(new_slots)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "rho": self.rho,
            "momentum": self.momentum,
            "epsilon": self.epsilon,
            "centered": self.centered,
        }
