"""The `meta_gradient` axis: how the outer loss is derived with respect to θ."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf


class MetaGradient:
    """Base class: the gradient of one task's outer loss.

    Attributes:
        second_order: bool. Whether the derivative goes through the inner
            gradients.
        rematerialize: bool. Whether it computes each inner step anew.
    """

    second_order = True
    rematerialize = False

    def __call__(
        self,
        theta: list,
        adapt: Callable,
        query_loss: Callable,
        scale_loss: Callable,
    ) -> tuple[Any, Any, list]:
        """The outer loss of one task and its gradient.

        Args:
            theta: list of tensors.
            adapt: function of θ, `second_order` and `rematerialize` that
                returns the adapted task, in whatever form `query_loss` takes
                it.
            query_loss: function of the adapted task that returns
                `(loss, aux)`: a scalar, and anything.
            scale_loss: function of the loss, whose value is derived instead
                (for mixed precision).

        Returns:
            A tuple `(loss, aux, gradients)`; `gradients` has a tensor for
            each of `theta`.
        """
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(theta)
            loss, aux = query_loss(
                adapt(theta, self.second_order, self.rematerialize)
            )
            scaled = scale_loss(loss)
        gradients = [
            tf.zeros_like(t) if g is None else tf.convert_to_tensor(g)
            for g, t in zip(tape.gradient(scaled, theta), theta)
        ]
        return loss, aux, gradients

    def get_config(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "MetaGradient":
        return cls(**config)


@keras.saving.register_keras_serializable(package="keras_maml")
class SecondOrder(MetaGradient):
    """The exact gradient, through every inner step.

    For one plain gradient step from θ to φ = θ − α∇L_support(θ) it is
    (I − αH) ∇L_query(φ), with H the support loss's Hessian at θ.

    Args:
        rematerialize: bool. Whether the way back through the inner loop
            computes each step anew, from the weights it began with, instead
            of keeping all that the step computed. The gradient is the same
            and memory stays about that of one step; time grows by the steps'
            forward pass and gradient. With more than five steps all
            but the first are rematerialised in any case; with `True`, with
            fewer too. Random numbers must then come from seeds, as those of
            Keras's layers do. Without effect in eager execution. Defaults to
            `False`.

    Example:

    ```python
    meta_model = keras_maml.MetaModel(
        keras_maml.learners.mlp(),
        inner_steps=5,
        meta_gradient=keras_maml.meta_gradients.SecondOrder(
            rematerialize=True
        ),
    )
    ```

    Reference:
        Finn et al., 2017, Algorithm 1, line 8. Rematerialisation: Chen et al.,
        2016, "Training Deep Nets with Sublinear Memory Cost".
    """

    def __init__(self, rematerialize: bool = False) -> None:
        if not isinstance(rematerialize, bool):
            raise ValueError(
                "`rematerialize` must be a bool. "
                f"Received: rematerialize={rematerialize!r}"
            )
        self.rematerialize = rematerialize

    def get_config(self) -> dict[str, Any]:
        return {"rematerialize": self.rematerialize}


@keras.saving.register_keras_serializable(package="keras_maml")
class FirstOrder(MetaGradient):
    """First-order MAML: the inner gradients count as constants.

    For plain gradient steps it is the query loss's gradient at the adapted
    weights.

    Reference:
        Finn et al., 2017, section 5.2, "first-order approximation".
    """

    second_order = False


_NAMES = {"second_order": SecondOrder, "first_order": FirstOrder}


def get(identifier: str | MetaGradient) -> MetaGradient:
    """A `MetaGradient` from its name or itself.

    Raises:
        ValueError: for anything else.
    """
    if isinstance(identifier, MetaGradient):
        return identifier
    if isinstance(identifier, str) and identifier in _NAMES:
        return _NAMES[identifier]()
    raise ValueError(
        f"`meta_gradient` must be one of {sorted(_NAMES)} or an object of "
        f"`keras_maml.meta_gradients`. Received: meta_gradient={identifier!r}"
    )
