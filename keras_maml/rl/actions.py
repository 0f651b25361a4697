"""Spaces of actions, and the policies' distributions over them."""

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_maml.settings import Settings
from keras_maml.validation import check_integer
from keras_maml.validation import check_number


@keras.saving.register_keras_serializable(package="keras_maml")
class ContinuousActions(Settings):
    """Vectors of numbers; a policy gives a diagonal Gaussian over them.

    A policy's outputs are a dict of `"mean"` and `"log_std"`, each of shape
    `(..., size)`: the Gaussian's mean and the logarithm of its standard
    deviation.

    Args:
        size: int, the entries of an action.
        low: float, below which an entry of an action is clipped by the
            environment. Defaults to `-1.0`.
        high: float, above which it is clipped. Defaults to `1.0`.

    Raises:
        ValueError: if `size` is not a positive integer, or `low` is not below
            `high`.

    Example:

    ```python
    actions = keras_maml.rl.ContinuousActions(2, low=-0.1, high=0.1)
    ```
    """

    dtype = "float32"

    def __init__(self, size: int, low: float = -1.0, high: float = 1.0) -> None:
        self.size = check_integer("size", size)
        self.low = check_number("low", low)
        self.high = check_number("high", high, above=self.low)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one action."""
        return (self.size,)

    def clip(self, actions: Any) -> Any:
        """The actions as the environment takes them."""
        return tf.clip_by_value(actions, self.low, self.high)

    def check(self, outputs: Any) -> None:
        """Raises `ValueError` if these cannot be a policy's outputs."""
        fits = (
            isinstance(outputs, dict)
            and set(outputs) == {"mean", "log_std"}
            and all(
                tuple(value.shape) == (None, self.size)
                for value in outputs.values()
            )
        )
        if not fits:
            raise ValueError(
                "A policy over continuous actions must return a dict of "
                f'"mean" and "log_std" of shape (batch, {self.size}). '
                f"Received: {outputs!r}"
            )

    def check_actions(self, actions: Any) -> None:
        """Any numbers will do: the environment clips them."""

    def sample(self, outputs: Any, seed: Any) -> Any:
        """Draws actions, `(..., size)`, not clipped."""
        mean = outputs["mean"]
        noise = tf.random.stateless_normal(
            tf.shape(mean), seed, dtype=mean.dtype
        )
        return mean + tf.exp(outputs["log_std"]) * noise

    def log_prob(self, outputs: Any, actions: Any) -> Any:
        """Log-densities of actions, `(...)`."""
        scaled = (actions - outputs["mean"]) * tf.exp(-outputs["log_std"])
        return -tf.reduce_sum(
            0.5 * tf.square(scaled)
            + outputs["log_std"]
            + 0.5 * math.log(2 * math.pi),
            -1,
        )

    def kl(self, old: Any, new: Any) -> Any:
        """KL(old ‖ new), `(...)`."""
        ratio = tf.exp(2 * (old["log_std"] - new["log_std"]))
        distance = tf.square(old["mean"] - new["mean"]) * tf.exp(
            -2 * new["log_std"]
        )
        return tf.reduce_sum(
            new["log_std"] - old["log_std"] + 0.5 * (ratio + distance - 1), -1
        )

    def get_config(self) -> dict[str, Any]:
        return {"size": self.size, "low": self.low, "high": self.high}


@keras.saving.register_keras_serializable(package="keras_maml")
class DiscreteActions(Settings):
    """One of some actions, by number; a policy gives their logits.

    A policy's outputs are a tensor `(..., count)`; actions are `int32`.

    Args:
        count: int, at least 2, how many actions there are.

    Raises:
        ValueError: if `count` is not such an integer.

    Example:

    ```python
    actions = keras_maml.rl.DiscreteActions(4)
    ```
    """

    dtype = "int32"
    shape = ()

    def __init__(self, count: int) -> None:
        self.count = check_integer("count", count, minimum=2)

    def clip(self, actions: Any) -> Any:
        """The actions as they are."""
        return actions

    def check(self, outputs: Any) -> None:
        """Raises `ValueError` if these cannot be a policy's outputs."""
        if tuple(getattr(outputs, "shape", ())) != (None, self.count):
            raise ValueError(
                "A policy over discrete actions must return their logits, "
                f"of shape (batch, {self.count}). Received: {outputs!r}"
            )

    def check_actions(self, actions: Any) -> None:
        """Raises `ValueError` if these are not numbers of actions."""
        if not np.all(np.isin(actions, range(self.count))):
            raise ValueError(
                f"`trajectories.actions` must be integers below {self.count}. "
                f"Received: actions={actions}"
            )

    def sample(self, outputs: Any, seed: Any) -> Any:
        """Draws actions, `(...)`."""
        # The largest of logits with Gumbel noise: TensorFlow's own draws a
        # matrix and knows no other axes.
        uniform = tf.random.stateless_uniform(
            tf.shape(outputs), seed, minval=1e-20, dtype=outputs.dtype
        )
        return tf.argmax(
            outputs - tf.math.log(-tf.math.log(uniform)), -1, tf.int32
        )

    def log_prob(self, outputs: Any, actions: Any) -> Any:
        """Log-probabilities of actions, `(...)`."""
        chosen = tf.one_hot(actions, self.count, dtype=outputs.dtype)
        return tf.reduce_sum(tf.nn.log_softmax(outputs) * chosen, -1)

    def kl(self, old: Any, new: Any) -> Any:
        """KL(old ‖ new), `(...)`."""
        log_old = tf.nn.log_softmax(old)
        return tf.reduce_sum(
            tf.exp(log_old) * (log_old - tf.nn.log_softmax(new)), -1
        )

    def get_config(self) -> dict[str, Any]:
        return {"count": self.count}
