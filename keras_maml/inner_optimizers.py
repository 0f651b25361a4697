"""The `inner_optimizer` axis: how adapted weights move in the inner loop."""

import numbers
from typing import Any

import keras


class InnerOptimizer:
    """Base class of the inner loop's update rules.

    A Keras optimizer assigns to variables, so its steps have no derivative.
    An inner optimizer is a pair of pure functions of tensors instead.
    Subclasses define `init` and `update`, and keep their arguments for
    `get_config`.
    """

    def init(self, weights: list) -> Any:
        """Returns the state before the first step.

        Args:
            weights: list of tensors, the adapted weights.
        """
        raise NotImplementedError

    def update(
        self, gradients: list, state: Any, weights: list, step: Any
    ) -> tuple[list, Any]:
        """Takes one step.

        Args:
            gradients: list, one tensor for each of `weights`.
            state: what `init` or the previous `update` returned.
            weights: list of tensors.
            step: int or integer tensor, counted from 0.

        Returns:
            A tuple `(weights, state)`.
        """
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "InnerOptimizer":
        return cls(**config)


@keras.saving.register_keras_serializable(package="keras_maml")
class SGD(InnerOptimizer):
    """Plain gradient descent: `w ← w - learning_rate · g`.

    Args:
        learning_rate: float, above 0. Defaults to `0.01`.

    Raises:
        ValueError: if `learning_rate` is not a finite number above 0.

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

    def __init__(self, learning_rate: float = 0.01) -> None:
        if (
            isinstance(learning_rate, bool)
            or not isinstance(learning_rate, numbers.Real)
            or not 0 < learning_rate < float("inf")
        ):
            raise ValueError(
                "`learning_rate` must be a finite number above 0. "
                f"Received: learning_rate={learning_rate!r}"
            )
        self.learning_rate: float = float(learning_rate)

    def init(self, weights: list) -> Any:
        return ()

    def update(
        self, gradients: list, state: Any, weights: list, step: Any
    ) -> tuple[list, Any]:
        new_weights = [
            w - self.learning_rate * g for w, g in zip(weights, gradients)
        ]
        return new_weights, state

    def get_config(self) -> dict[str, Any]:
        return {"learning_rate": self.learning_rate}


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
