"""What the update rules of the inner loop have in common."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_maml.learned_rates import LearnedRate
from keras_maml.validation import check_number


class InnerOptimizer:
    """Base class of the inner loop's update rules.

    A Keras optimizer assigns to variables, so its steps have no derivative.
    An inner optimizer consists of pure functions of tensors instead.
    Subclasses define `init` and `update`, and keep their arguments for
    `get_config`. What a rule has to learn, such as its rates, it names in
    `parameters`: the outer optimizer trains it along with θ.
    """

    def parameters(self, variables: Sequence, steps: int) -> list:
        """Initial values of what the outer loop is to learn of the rule.

        Args:
            variables: list of `keras.Variable`, those that adapt.
            steps: int, the inner steps while training.

        Returns:
            A list of numpy arrays; empty if nothing is learned.
        """
        return []

    def init(self, weights: list) -> Any:
        """Returns the state before the first step, a structure of tensors.

        Args:
            weights: list of tensors, the adapted weights.
        """
        raise NotImplementedError

    def update(
        self,
        gradients: list,
        state: Any,
        weights: list,
        step: Any,
        parameters: Sequence = (),
    ) -> tuple[list, Any]:
        """Takes one step.

        Args:
            gradients: list, one tensor for each of `weights`.
            state: what `init` or the previous `update` returned.
            weights: list of tensors.
            step: int or integer tensor, counted from 0.
            parameters: list of tensors, what became of the values that
                `parameters` returned; not passed if there were none.

        Returns:
            A tuple `(weights, state)`.
        """
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "InnerOptimizer":
        config = {
            key: keras.saving.deserialize_keras_object(value)
            if isinstance(value, dict)
            else value
            for key, value in config.items()
        }
        return cls(**config)


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
