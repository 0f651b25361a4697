"""The base class of the update rules of the inner loop."""

from collections.abc import Sequence
from typing import Any
from typing import TypeAlias

import keras
import numpy as np
import tensorflow as tf

from keras_maml.exact.constants import constant
from keras_maml.inner_optimizers.inner_optimizer import InnerOptimizer
from keras_maml.inner_optimizers.learned_rate import LearnedRate
from keras_maml.validation import check_number

LearningRate: TypeAlias = (
    float | keras.optimizers.schedules.LearningRateSchedule | LearnedRate
)


class GradientRule(InnerOptimizer):
    """Base class of update rules with rates, clipping and weight decay.

    Each subclass computes the same steps as the Keras optimizer of the same
    name. A weight has slots, such as a momentum. Subclasses make the slots in
    `slots`, and use them in `step`.

    Args:
        learning_rate: float above 0, a
            `keras.optimizers.schedules.LearningRateSchedule` over inner steps,
            or a `keras_maml.inner_optimizers.LearnedRate`.
        weight_decay: float, not negative. Defaults to `None`: no decay.
        clipvalue: float above 0, the largest absolute value of an entry of a
            gradient. Defaults to `None`: no limit.
        clipnorm: float above 0, the largest norm of one weight's gradient.
            Defaults to `None`: no limit.
        global_clipnorm: float above 0, the largest norm of all gradients
            together. Defaults to `None`: no limit.

    Raises:
        ValueError: if an argument does not have this form, or if there is more
            than one clipping argument.

    Example:

    ```python
    class SignDescent(keras_maml.inner_optimizers.GradientRule):
        def step(self, gradient, slots, weight, rate, number):
            return weight - rate * tf.sign(gradient), slots

    meta_model = keras_maml.MetaModel(
        keras_maml.learners.mlp(), inner_optimizer=SignDescent(0.01)
    )
    ```
    """

    def __init__(
        self,
        learning_rate: LearningRate,
        *,
        weight_decay: float | None = None,
        clipvalue: float | None = None,
        clipnorm: float | None = None,
        global_clipnorm: float | None = None,
    ) -> None:
        if not isinstance(
            learning_rate,
            (LearnedRate, keras.optimizers.schedules.LearningRateSchedule),
        ):
            learning_rate = check_number(
                "learning_rate", learning_rate, above=0
            )
        clips = {
            "clipvalue": clipvalue,
            "clipnorm": clipnorm,
            "global_clipnorm": global_clipnorm,
        }
        for name, value in clips.items():
            if value is not None:
                check_number(name, value, above=0)
        if sum(value is not None for value in clips.values()) > 1:
            raise ValueError(
                "Only one of `clipvalue`, `clipnorm` and `global_clipnorm` can "
                f"be used. Received: {clips}"
            )
        if weight_decay is not None:
            check_number("weight_decay", weight_decay, minimum=0)
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.clipvalue = clipvalue
        self.clipnorm = clipnorm
        self.global_clipnorm = global_clipnorm

    @property
    def seeks_minimum(self) -> bool:
        # With weight decay, the rule stops at another point.
        return not self.weight_decay

    @property
    def needs_fixed_weights(self) -> bool:
        rate = self.learning_rate
        return isinstance(rate, LearnedRate) and rate.per != "model"

    def slots(self, weight: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """Returns the slots of one weight before the first step."""
        return ()

    def step(
        self,
        gradient: tf.Tensor,
        slots: tuple[tf.Tensor, ...],
        weight: tf.Tensor,
        rate: tf.Tensor,
        number: int | tf.Tensor,
    ) -> tuple[tf.Tensor, tuple[tf.Tensor, ...]]:
        """Takes step `number` of one weight.

        Returns:
            A tuple `(weight, slots)`.
        """
        raise NotImplementedError

    def parameters(
        self, variables: Sequence[keras.Variable], steps: int
    ) -> list[np.ndarray]:
        if isinstance(self.learning_rate, LearnedRate):
            return self.learning_rate.initial_values(variables, steps)
        return []

    def init(self, weights: list[tf.Tensor]) -> Any:
        return [self.slots(weight) for weight in weights]

    def update(
        self,
        gradients: list[tf.Tensor],
        state: Any,
        weights: list[tf.Tensor],
        step: int | tf.Tensor,
        parameters: Sequence[tf.Tensor] = (),
    ) -> tuple[list[tf.Tensor], Any]:
        rates = self._rates(step, parameters, len(weights))
        new_weights, new_state = [], []
        for weight, gradient, slots, rate in zip(
            weights, self._clip(gradients), state, rates, strict=True
        ):
            # `tf.cast` would first round a float to float32.
            rate = (
                constant(rate, weight.dtype)
                if isinstance(rate, float)
                else tf.cast(rate, weight.dtype)
            )
            if self.weight_decay:
                weight -= weight * self.weight_decay * rate
            weight, slots = self.step(gradient, slots, weight, rate, step)
            new_weights.append(weight)
            new_state.append(slots)
        return new_weights, new_state

    def _rates(self, step, parameters, count):
        if isinstance(self.learning_rate, LearnedRate):
            return self.learning_rate.rates(parameters, step, count)
        if callable(self.learning_rate):
            return [self.learning_rate(step)] * count
        return [self.learning_rate] * count

    def _clip(self, gradients):
        if self.clipvalue is not None:
            limit = self.clipvalue
            return [tf.clip_by_value(g, -limit, limit) for g in gradients]
        if self.clipnorm is not None:
            return [g * _shrink([g], self.clipnorm) for g in gradients]
        if self.global_clipnorm is not None:
            scale = _shrink(gradients, self.global_clipnorm)
            return [g * tf.cast(scale, g.dtype) for g in gradients]
        return gradients

    def get_config(self) -> dict[str, Any]:
        rate = self.learning_rate
        if not isinstance(rate, float):
            rate = keras.saving.serialize_keras_object(rate)
        return {
            "learning_rate": rate,
            "weight_decay": self.weight_decay,
            "clipvalue": self.clipvalue,
            "clipnorm": self.clipnorm,
            "global_clipnorm": self.global_clipnorm,
        }


def safe_root(square):
    """Returns the square root, with a derivative of 0 at 0 instead of NaN."""
    positive = square > 0
    return tf.where(
        positive, tf.sqrt(tf.where(positive, square, 1)), tf.zeros_like(square)
    )


def _shrink(gradients, limit):
    """Returns the factor that limits the norm of all `gradients`."""
    square = sum(
        tf.reduce_sum(tf.square(tf.cast(g, gradients[0].dtype)))
        for g in gradients
    )
    return limit / tf.maximum(safe_root(square), limit)
