"""Spaces of actions, and the distributions over them that policies give."""

import math
from collections.abc import Sequence
from typing import Any
from typing import TypeAlias

import keras
import numpy as np
import tensorflow as tf

from keras_maml.settings import Settings
from keras_maml.validation import check_integer
from keras_maml.validation import check_number

# Two integers, as TensorFlow's stateless random numbers take them. The library
# makes them from the seeds that users pass.
StatelessSeed: TypeAlias = tf.Tensor | Sequence[int]


@keras.saving.register_keras_serializable(package="keras_maml")
class ContinuousActions(Settings):
    """Actions that are vectors, with a diagonal Gaussian over them.

    A policy's outputs are a dict of `"mean"` and `"log_std"`, each of shape
    `(..., size)`: the mean of the Gaussian and the logarithm of its standard
    deviation.

    Args:
        size: int, the number of entries of an action.
        low: float. The environment clips smaller entries to it. Defaults to
            `-1.0`.
        high: float. The environment clips larger entries to it. Defaults to
            `1.0`.

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

    def clip(self, actions: tf.Tensor) -> tf.Tensor:
        """The actions that the environment executes."""
        return tf.clip_by_value(actions, self.low, self.high)

    def check(self, outputs: object) -> None:
        """Raises `ValueError` if these are not outputs of a policy."""
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

    def check_actions(self, actions: np.ndarray) -> None:
        """Accepts all numbers: the environment clips them."""

    def sample(
        self, outputs: dict[str, tf.Tensor], seed: StatelessSeed
    ) -> tf.Tensor:
        """Draws actions, `(..., size)`, not clipped."""
        mean = outputs["mean"]
        noise = tf.random.stateless_normal(
            tf.shape(mean), seed, dtype=mean.dtype
        )
        return mean + tf.exp(outputs["log_std"]) * noise

    def log_prob(
        self, outputs: dict[str, tf.Tensor], actions: tf.Tensor
    ) -> tf.Tensor:
        """Log-densities of actions, `(...)`."""
        scaled = (actions - outputs["mean"]) * tf.exp(-outputs["log_std"])
        return -tf.reduce_sum(
            0.5 * tf.square(scaled)
            + outputs["log_std"]
            + 0.5 * math.log(2 * math.pi),
            -1,
        )

    def kl(
        self, old: dict[str, tf.Tensor], new: dict[str, tf.Tensor]
    ) -> tf.Tensor:
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
    """A number of actions to choose from, with logits over them.

    A policy's outputs are a tensor `(..., count)` of logits. Actions are
    integers from 0 to `count` − 1, of dtype `int32`.

    Args:
        count: int, at least 2, the number of actions.

    Raises:
        ValueError: if `count` is not an integer of at least 2.

    Example:

    ```python
    actions = keras_maml.rl.DiscreteActions(4)
    ```
    """

    dtype = "int32"
    shape = ()

    def __init__(self, count: int) -> None:
        self.count = check_integer("count", count, minimum=2)

    def clip(self, actions: tf.Tensor) -> tf.Tensor:
        """The actions that the environment executes: the same ones."""
        return actions

    def check(self, outputs: object) -> None:
        """Raises `ValueError` if these are not outputs of a policy."""
        if tuple(getattr(outputs, "shape", ())) != (None, self.count):
            raise ValueError(
                "A policy over discrete actions must return their logits, "
                f"of shape (batch, {self.count}). Received: {outputs!r}"
            )

    def check_actions(self, actions: np.ndarray) -> None:
        """Raises `ValueError` if an entry is no integer below `count`."""
        if not np.all(np.isin(actions, range(self.count))):
            raise ValueError(
                f"`trajectories.actions` must be integers below {self.count}. "
                f"Received: actions={actions}"
            )

    def sample(self, outputs: tf.Tensor, seed: StatelessSeed) -> tf.Tensor:
        """Draws actions, `(...)`."""
        # The argmax of logits plus Gumbel noise: TensorFlow's own function
        # takes matrices only.
        uniform = tf.random.stateless_uniform(
            tf.shape(outputs), seed, minval=1e-20, dtype=outputs.dtype
        )
        return tf.argmax(
            outputs - tf.math.log(-tf.math.log(uniform)), -1, tf.int32
        )

    def log_prob(self, outputs: tf.Tensor, actions: tf.Tensor) -> tf.Tensor:
        """Log-probabilities of actions, `(...)`."""
        chosen = tf.one_hot(actions, self.count, dtype=outputs.dtype)
        return tf.reduce_sum(tf.nn.log_softmax(outputs) * chosen, -1)

    def kl(self, old: tf.Tensor, new: tf.Tensor) -> tf.Tensor:
        """KL(old ‖ new), `(...)`."""
        log_old = tf.nn.log_softmax(old)
        return tf.reduce_sum(
            tf.exp(log_old) * (log_old - tf.nn.log_softmax(new)), -1
        )

    def get_config(self) -> dict[str, Any]:
        return {"count": self.count}
