"""The `inner_optimizer` axis: how adapted weights move in the inner loop."""

import numbers
from typing import Any

import keras
import tensorflow as tf

from keras_maml.learned_rates import LearnedRate
from keras_maml.update_rule import GradientRule
from keras_maml.update_rule import InnerOptimizer
from keras_maml.update_rule import safe_root
from keras_maml.validation import check_bool
from keras_maml.validation import check_number

__all__ = [
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "GradientRule",
    "InnerOptimizer",
    "LearnedRate",
    "RMSprop",
    "get",
]


@keras.saving.register_keras_serializable(package="keras_maml")
class SGD(GradientRule):
    """Gradient descent: `w ← w - learning_rate · g`, or with momentum.

    Args:
        learning_rate: float, schedule or `LearnedRate`, see `GradientRule`.
            Defaults to `0.01`.
        momentum: float, at least 0 and below 1. Defaults to `0.0`.
        nesterov: bool. Whether the momentum is Nesterov's.
        **kwargs: `weight_decay` and clipping, see `GradientRule`.

    Raises:
        ValueError: if an argument is not of that form.

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
        learning_rate: Any = 0.01,
        momentum: float = 0.0,
        nesterov: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, **kwargs)
        self.momentum = check_number("momentum", momentum, minimum=0, below=1)
        self.nesterov = check_bool("nesterov", nesterov)

    def slots(self, weight: Any) -> tuple:
        return (tf.zeros_like(weight),) if self.momentum else ()

    def step(
        self, gradient: Any, slots: tuple, weight: Any, rate: Any, number: Any
    ) -> tuple[Any, tuple]:
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


@keras.saving.register_keras_serializable(package="keras_maml")
class Adam(GradientRule):
    """Adam: steps in units of the gradients' running root mean square.

    Its derivative at a gradient of 0 is finite: that of the whole step, since
    the root is only taken where there is something to take it of.

    Args:
        learning_rate: float, schedule or `LearnedRate`, see `GradientRule`.
            Defaults to `0.001`.
        beta_1: float, at least 0 and below 1: decay of the mean gradient.
            Reptile's 0 leaves the momentum out. Defaults to `0.9`.
        beta_2: float, at least 0 and below 1: decay of the mean square.
            Defaults to `0.999`.
        epsilon: float above 0, added to the root. Defaults to `1e-7`.
        **kwargs: `weight_decay` and clipping, see `GradientRule`.

    Raises:
        ValueError: if an argument is not of that form.

    Example:

    ```python
    rule = keras_maml.inner_optimizers.Adam(learning_rate=0.1)
    weights = [tf.constant([1.0])]
    weights, state = rule.update(
        [tf.constant([5.0])], rule.init(weights), weights, 0
    )
    # weights[0] is now [0.9]: the first step has the length of the rate.
    ```

    Reference:
        Kingma and Ba, 2015, "Adam: A Method for Stochastic Optimization",
        Algorithm 1, with the step size of its section 2.
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, **kwargs)
        self.beta_1 = check_number("beta_1", beta_1, minimum=0, below=1)
        self.beta_2 = check_number("beta_2", beta_2, minimum=0, below=1)
        self.epsilon = check_number("epsilon", epsilon, above=0)

    def slots(self, weight: Any) -> tuple:
        return tf.zeros_like(weight), tf.zeros_like(weight)

    def step(
        self, gradient: Any, slots: tuple, weight: Any, rate: Any, number: Any
    ) -> tuple[Any, tuple]:
        mean, square = slots
        mean += (gradient - mean) * (1 - self.beta_1)
        square += (tf.square(gradient) - square) * (1 - self.beta_2)
        count = tf.cast(number + 1, weight.dtype)
        one = tf.ones([], weight.dtype)
        rate *= tf.sqrt(1 - tf.pow(one * self.beta_2, count))
        rate /= 1 - tf.pow(one * self.beta_1, count)
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
        learning_rate: float, schedule or `LearnedRate`, see `GradientRule`.
            Defaults to `0.001`.
        weight_decay: float, not negative. Defaults to `0.004`.
        **kwargs: of `Adam`.

    Raises:
        ValueError: if an argument is not of that form.

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
        learning_rate: Any = 0.001,
        weight_decay: float = 0.004,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, weight_decay=weight_decay, **kwargs)


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


@keras.saving.register_keras_serializable(package="keras_maml")
class Adagrad(GradientRule):
    """Steps that shrink with the sum of the squared gradients so far.

    Args:
        learning_rate: float, schedule or `LearnedRate`, see `GradientRule`.
            Defaults to `0.001`.
        initial_accumulator_value: float, not negative: what the sum starts
            from. Defaults to `0.1`.
        epsilon: float above 0, added under the root. Defaults to `1e-7`.
        **kwargs: `weight_decay` and clipping, see `GradientRule`.

    Raises:
        ValueError: if an argument is not of that form.

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
        learning_rate: Any = 0.001,
        initial_accumulator_value: float = 0.1,
        epsilon: float = 1e-7,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, **kwargs)
        self.initial_accumulator_value = check_number(
            "initial_accumulator_value", initial_accumulator_value, minimum=0
        )
        self.epsilon = check_number("epsilon", epsilon, above=0)

    def slots(self, weight: Any) -> tuple:
        return (tf.ones_like(weight) * self.initial_accumulator_value,)

    def step(
        self, gradient: Any, slots: tuple, weight: Any, rate: Any, number: Any
    ) -> tuple[Any, tuple]:
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


def get(identifier: float | InnerOptimizer) -> InnerOptimizer:
    """An `InnerOptimizer` from itself or from a learning rate of plain SGD.

    Raises:
        ValueError: for anything else.
    """
    if isinstance(identifier, InnerOptimizer):
        return identifier
    if isinstance(identifier, numbers.Real) and not isinstance(
        identifier, bool
    ):
        return SGD(identifier)
    hint = ""
    if isinstance(identifier, keras.optimizers.Optimizer):
        hint = (
            " A Keras optimizer cannot be differentiated through: it assigns "
            "to variables."
        )
    raise ValueError(
        "`inner_optimizer` must be a learning rate (plain SGD) or an object "
        f"of `keras_maml.inner_optimizers`.{hint} "
        f"Received: inner_optimizer={identifier!r}"
    )
