"""Adam in the inner loop, and AdamW."""

from typing import Any

import keras
import tensorflow as tf

from keras_maml.inner_optimizers.gradient_rule import GradientRule
from keras_maml.inner_optimizers.gradient_rule import LearningRate
from keras_maml.inner_optimizers.gradient_rule import safe_root
from keras_maml.validation import check_number


@keras.saving.register_keras_serializable(package="keras_maml")
class Adam(GradientRule):
    """Adam: divides steps by the running root mean square of the gradients.

    The derivative of a step is finite even if a gradient is 0.

    Args:
        learning_rate: float, schedule or `LearnedRate`, as in `GradientRule`.
            Defaults to `0.001`.
        beta_1: float, at least 0 and below 1, the decay of the mean gradient.
            With 0, as in Reptile, there is no momentum. Defaults to `0.9`.
        beta_2: float, at least 0 and below 1, the decay of the mean square.
            Defaults to `0.999`.
        epsilon: float above 0, added to the root. Defaults to `1e-7`.
        **kwargs: `weight_decay` and clipping arguments of `GradientRule`.

    Raises:
        ValueError: if an argument does not have this form.

    Example:

    ```python
    rule = keras_maml.inner_optimizers.Adam(learning_rate=0.1)
    weights = [tf.constant([1.0])]
    weights, state = rule.update(
        [tf.constant([5.0])], rule.init(weights), weights, 0
    )
    # weights[0] is now [0.9]: the length of the first step is the rate.
    ```

    Reference:
        Kingma and Ba, 2015, "Adam: A Method for Stochastic Optimization",
        Algorithm 1, with the step size of its section 2.
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, **kwargs)
        self.beta_1 = check_number("beta_1", beta_1, minimum=0, below=1)
        self.beta_2 = check_number("beta_2", beta_2, minimum=0, below=1)
        self.epsilon = check_number("epsilon", epsilon, above=0)

    def slots(self, weight: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return tf.zeros_like(weight), tf.zeros_like(weight)

    def step(
        self,
        gradient: tf.Tensor,
        slots: tuple[tf.Tensor, ...],
        weight: tf.Tensor,
        rate: tf.Tensor,
        number: int | tf.Tensor,
    ) -> tuple[tf.Tensor, tuple[tf.Tensor, ...]]:
        mean, square = slots
        mean += (gradient - mean) * (1 - self.beta_1)
        square += (tf.square(gradient) - square) * (1 - self.beta_2)
        count = tf.cast(number + 1, weight.dtype)
        beta_1 = tf.constant(self.beta_1, weight.dtype)
        beta_2 = tf.constant(self.beta_2, weight.dtype)
        rate *= tf.sqrt(1 - tf.pow(beta_2, count))
        rate /= 1 - tf.pow(beta_1, count)
        weight -= mean * rate / (safe_root(square) + self.epsilon)
        return weight, (mean, square)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
        }


@keras.saving.register_keras_serializable(package="keras_maml")
class AdamW(Adam):
    """Adam with decoupled weight decay.

    Args:
        learning_rate: float, schedule or `LearnedRate`, as in `GradientRule`.
            Defaults to `0.001`.
        weight_decay: float, not negative. Defaults to `0.004`.
        **kwargs: further arguments of `Adam`.

    Raises:
        ValueError: if an argument does not have this form.

    Example:

    ```python
    rule = keras_maml.inner_optimizers.AdamW(0.1, weight_decay=0.5)
    weights = [tf.constant([1.0])]
    weights, state = rule.update(
        [tf.constant([0.0])], rule.init(weights), weights, 0
    )
    # weights[0] is now [0.95].
    ```

    Reference:
        Loshchilov and Hutter, 2019, "Decoupled Weight Decay Regularization".
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        weight_decay: float = 0.004,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, weight_decay=weight_decay, **kwargs)
