"""Outer updates: how a meta-policy search moves θ."""

from typing import Any

import keras
import tensorflow as tf

from keras_maml.exact.conjugate_gradient import conjugate_gradient
from keras_maml.exact.conjugate_gradient import dot
from keras_maml.exact.conjugate_gradient import plus
from keras_maml.rl.meta_objective import MetaObjective
from keras_maml.settings import Settings
from keras_maml.settings import resolve
from keras_maml.theta import Theta
from keras_maml.validation import check_integer
from keras_maml.validation import check_number


class OuterUpdate(Settings):
    """Base class of the ways to move θ, given one meta-batch of roll-outs.

    Attributes:
        log_names: tuple of strings, the keys of what `update` returns.
    """

    log_names: tuple[str, ...] = ()

    def optimizer(self) -> keras.Optimizer | None:
        """Makes the Keras optimizer that `update` uses, or `None`."""
        return None

    def ratio_loss(self, ratio: tf.Tensor, advantages: tf.Tensor) -> tf.Tensor:
        """The loss of each step: minus the advantage, times the ratio.

        Args:
            ratio: tensor, the probability of an action under the new adapted
                policy over its probability under the old one.
            advantages: tensor of the same shape.

        Returns:
            A tensor of the same shape.
        """
        return -ratio * advantages

    def update(
        self,
        objective: MetaObjective,
        batch: dict[str, Any],
        variables: Theta,
        optimizer: keras.Optimizer | None,
    ) -> dict[str, tf.Tensor]:
        """Assigns new values to the variables of θ.

        Args:
            objective: a `MetaObjective`.
            batch: dict, the argument of the objective's functions.
            variables: a `Theta` of variables.
            optimizer: the Keras optimizer that `optimizer` made, or `None`.

        Returns:
            A dict of scalars for the logs, with the keys `log_names`.
        """
        raise NotImplementedError


@keras.saving.register_keras_serializable(package="keras_maml")
class TRPO(OuterUpdate):
    """Trust region policy optimization of θ, through the adaptation.

    The direction is the natural gradient d: conjugate gradients solve F d = g,
    with g the outer gradient and F the Hessian of the mean KL divergence
    between the old and the new adapted policies. The first step length is the
    one at which a quadratic KL equals `max_kl`. The step is shortened until
    the KL itself is at most `max_kl` and the loss is smaller. If no length
    satisfies both, θ does not change.

    Args:
        max_kl: float above 0. Defaults to `0.01`.
        cg_steps: int, the steps of conjugate gradients. Defaults to `10`.
        damping: float, added to the diagonal of F. Defaults to `1e-5`.
        backtracks: int, how often the step is shortened at most. Defaults to
            `15`.
        backtrack_ratio: float above 0 and below 1. Each shortening multiplies
            the step by it. Defaults to `0.8`.

    Raises:
        ValueError: if an argument is not of that form.

    Example:

    ```python
    outer_update = keras_maml.rl.TRPO(max_kl=0.005)
    ```

    Reference:
        Schulman et al., 2015, "Trust Region Policy Optimization", appendix C;
        Finn et al., 2017, section 5.3.
    """

    log_names = ("improvement", "kl", "backtracks")

    def __init__(
        self,
        max_kl: float = 0.01,
        cg_steps: int = 10,
        damping: float = 1e-5,
        backtracks: int = 15,
        backtrack_ratio: float = 0.8,
    ) -> None:
        self.max_kl = check_number("max_kl", max_kl, above=0)
        self.cg_steps = check_integer("cg_steps", cg_steps)
        self.damping = check_number("damping", damping, minimum=0)
        self.backtracks = check_integer("backtracks", backtracks, minimum=0)
        self.backtrack_ratio = check_number(
            "backtrack_ratio", backtrack_ratio, above=0, below=1
        )

    def update(
        self,
        objective: MetaObjective,
        batch: dict[str, Any],
        variables: Theta,
        optimizer: keras.Optimizer | None = None,
    ) -> dict[str, tf.Tensor]:
        theta = _values(variables)
        loss, gradients = objective.gradient(theta, batch)

        def product(vector):
            image = objective.kl_product(theta, vector, batch)
            return plus(image, self.damping, vector)

        direction = conjugate_gradient(product, gradients, self.cg_steps)
        curvature = dot(direction, product(direction))
        length = tf.sqrt(
            tf.math.divide_no_nan(2 * self.max_kl, tf.maximum(curvature, 0.0))
        )

        def at(length):
            return plus(theta, -length, direction)

        # NaN compares as false, so it is never good enough.
        def not_yet(i, length, new_loss, kl):
            good = (new_loss < loss) & (kl <= self.max_kl)
            return (i <= self.backtracks) & ~good

        def shorten(i, length, new_loss, kl):
            ratio = tf.where(i > 0, self.backtrack_ratio, 1.0)
            length *= tf.cast(ratio, length.dtype)
            return i + 1, length, *objective.losses(at(length), batch)

        i, length, new_loss, kl = tf.while_loop(
            not_yet,
            shorten,
            (tf.constant(0), length, loss, tf.zeros_like(loss)),
            parallel_iterations=1,
        )
        found = (new_loss < loss) & (kl <= self.max_kl)
        tf.nest.map_structure(
            lambda variable, old, new: variable.assign(
                tf.where(found, new, old)
            ),
            variables,
            theta,
            at(length),
        )
        zero = tf.zeros_like(loss)
        return {
            "improvement": tf.where(found, loss - new_loss, zero),
            "kl": tf.where(found, kl, zero),
            "backtracks": tf.cast(i - 1, loss.dtype),
        }

    def get_config(self) -> dict[str, Any]:
        return {
            "max_kl": self.max_kl,
            "cg_steps": self.cg_steps,
            "damping": self.damping,
            "backtracks": self.backtracks,
            "backtrack_ratio": self.backtrack_ratio,
        }


@keras.saving.register_keras_serializable(package="keras_maml")
class PPO(OuterUpdate):
    """Proximal policy optimization: Adam steps on a loss with clipped ratios.

    With `surrogate="lvc"` it is ProMP without that paper's KL penalty.

    Args:
        learning_rate: float or a `LearningRateSchedule`, Adam's. Defaults to
            `1e-3`.
        steps: int, the gradient steps on one meta-batch. Defaults to `5`.
        clip: float above 0. Ratios are clipped to 1 ± `clip`. Defaults to
            `0.3`.

    Raises:
        ValueError: if an argument is not of that form.

    Example:

    ```python
    outer_update = keras_maml.rl.PPO(learning_rate=3e-4)
    ```

    Reference:
        Schulman et al., 2017, "Proximal Policy Optimization Algorithms",
        equation 7; Rothfuss et al., 2019, "ProMP: Proximal Meta-Policy
        Search", equation 5 and Algorithm 1.
    """

    log_names = ("improvement", "kl")

    def __init__(
        self,
        learning_rate: float
        | keras.optimizers.schedules.LearningRateSchedule = 1e-3,
        steps: int = 5,
        clip: float = 0.3,
    ) -> None:
        if not isinstance(
            learning_rate, keras.optimizers.schedules.LearningRateSchedule
        ):
            check_number("learning_rate", learning_rate, above=0)
        self.learning_rate = learning_rate
        self.steps = check_integer("steps", steps)
        self.clip = check_number("clip", clip, above=0)

    def optimizer(self) -> keras.Optimizer:
        return keras.optimizers.Adam(self.learning_rate)

    def ratio_loss(self, ratio: tf.Tensor, advantages: tf.Tensor) -> tf.Tensor:
        clipped = tf.clip_by_value(ratio, 1 - self.clip, 1 + self.clip)
        return -tf.minimum(ratio * advantages, clipped * advantages)

    def update(
        self,
        objective: MetaObjective,
        batch: dict[str, Any],
        variables: Theta,
        optimizer: keras.Optimizer | None,
    ) -> dict[str, tf.Tensor]:
        if optimizer is None:
            raise ValueError(
                "`PPO.update` needs the optimizer that `PPO.optimizer` makes. "
                f"Received: optimizer={optimizer!r}"
            )

        first = None
        for _ in range(self.steps):
            loss, gradients = objective.gradient(_values(variables), batch)
            first = loss if first is None else first
            optimizer.apply_gradients(
                zip(
                    tf.nest.flatten(gradients),
                    tf.nest.flatten(variables),
                    strict=True,
                )
            )
        loss, kl = objective.losses(_values(variables), batch)
        return {"improvement": first - loss, "kl": kl}

    def get_config(self) -> dict[str, Any]:
        rate = self.learning_rate
        if not isinstance(rate, (int, float)):
            rate = keras.saving.serialize_keras_object(rate)
        return {"learning_rate": rate, "steps": self.steps, "clip": self.clip}


def get(identifier: str | dict | OuterUpdate) -> OuterUpdate:
    """Returns an `OuterUpdate` from a name, a config or itself.

    Raises:
        ValueError: for anything else.
    """
    return resolve("outer_update", identifier, OuterUpdate, _NAMES)


_NAMES = {"ppo": PPO, "trpo": TRPO}


def _values(variables):
    """The values of a structure of variables."""
    return tf.nest.map_structure(
        lambda variable: tf.convert_to_tensor(variable.value), variables
    )
