"""What the update rules of the inner loop have in common."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_maml.inner_optimizers.inner_optimizer import InnerOptimizer
from keras_maml.inner_optimizers.learned_rate import LearnedRate
from keras_maml.validation import check_number


class GradientRule(InnerOptimizer):
    """What the rules below have in common: rates, clipping and weight decay.

    A rule computes as the Keras optimizer of its name does. Each weight has
    slots of its own, which subclasses make in `slots` and use in `step`.

    Args:
        learning_rate: float above 0, a
            `keras.optimizers.schedules.LearningRateSchedule` over inner steps,
            or a `keras_maml.inner_optimizers.LearnedRate`.
        weight_decay: float, not negative, or `None`.
        clipvalue: float above 0: the largest absolute value of a gradient's
            entry. Defaults to `None`, no limit.
        clipnorm: float above 0: the largest norm of one weight's gradient.
            Defaults to `None`, no limit.
        global_clipnorm: float above 0: the largest norm of all gradients
            together. Defaults to `None`, no limit.

    Raises:
        ValueError: if an argument is not of that form, or there is more than
            one way to clip.
    """

    def __init__(
        self,
        learning_rate: Any,
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
                f"Only one of {list(clips)} can be used. Received: {clips}"
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
        # Weight decay moves the point where the rule stands still.
        return not self.weight_decay

    @property
    def needs_fixed_weights(self) -> bool:
        rate = self.learning_rate
        return isinstance(rate, LearnedRate) and rate.per != "model"

    def slots(self, weight: Any) -> tuple:
        """The slots of one weight before the first step."""
        return ()

    def step(
        self, gradient: Any, slots: tuple, weight: Any, rate: Any, number: Any
    ) -> tuple[Any, tuple]:
        """One weight's step `number`; returns the weight and its slots."""
        raise NotImplementedError

    def parameters(self, variables: Sequence, steps: int) -> list:
        if isinstance(self.learning_rate, LearnedRate):
            return self.learning_rate.initial_values(variables, steps)
        return []

    def init(self, weights: list) -> Any:
        return [self.slots(weight) for weight in weights]

    def update(
        self,
        gradients: list,
        state: Any,
        weights: list,
        step: Any,
        parameters: Sequence = (),
    ) -> tuple[list, Any]:
        rates = self._rates(step, parameters, len(weights))
        new_weights, new_state = [], []
        for weight, gradient, slots, rate in zip(
            weights, self._clip(gradients), state, rates, strict=True
        ):
            # A Python number has all the digits that the weight's dtype has.
            rate = (
                tf.constant(rate, weight.dtype)
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
    """√x whose derivative at 0 is 0, so that 0/√0 has no NaN behind it."""
    positive = square > 0
    return tf.where(
        positive, tf.sqrt(tf.where(positive, square, 1)), tf.zeros_like(square)
    )


def _shrink(gradients, limit):
    """The factor that brings the norm of all `gradients` down to `limit`."""
    square = sum(
        tf.reduce_sum(tf.square(tf.cast(g, gradients[0].dtype)))
        for g in gradients
    )
    return limit / tf.maximum(safe_root(square), limit)
