"""The base class of inner optimizers."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_maml.settings import Settings


class InnerOptimizer(Settings):
    """Base class of inner optimizers.

    A Keras optimizer assigns to variables, so its steps have no derivative.
    The methods of an inner optimizer are pure functions of tensors instead.
    Subclasses define `init`, `update` and `get_config`. If a subclass has
    parameters to learn, such as rates, `parameters` returns their initial
    values. The outer optimizer trains the parameters together with θ.

    Example:

    ```python
    class HalfStep(keras_maml.inner_optimizers.InnerOptimizer):
        def init(self, weights):
            return ()

        def update(self, gradients, state, weights, step, parameters=()):
            pairs = zip(weights, gradients)
            return [w - 0.5 * g for w, g in pairs], state

    meta_model = keras_maml.MetaModel(
        keras_maml.learners.mlp(), inner_optimizer=HalfStep()
    )
    ```
    """

    @property
    def seeks_minimum(self) -> bool:
        """Whether the rule converges only where the gradient is 0.

        The implicit meta-gradient needs such a rule.
        """
        return True

    @property
    def needs_fixed_weights(self) -> bool:
        """Whether learned parameters belong to single weights of the learner.

        If so, each task must adapt the same weights, so a head cannot start
        from prototypes.
        """
        return False

    def parameters(
        self, variables: Sequence[keras.Variable], steps: int
    ) -> list[np.ndarray]:
        """Returns the initial values of the learned parameters.

        Args:
            variables: list of `keras.Variable`, the variables that adapt.
            steps: int, the number of inner steps in training.

        Returns:
            A list of numpy arrays. It is empty if the rule learns nothing.
        """
        return []

    def init(self, weights: list[tf.Tensor]) -> Any:
        """Returns the state before the first step.

        Args:
            weights: list of tensors, the adapted weights.

        Returns:
            A structure of tensors.
        """
        raise NotImplementedError

    def update(
        self,
        gradients: list[tf.Tensor],
        state: Any,
        weights: list[tf.Tensor],
        step: int | tf.Tensor,
        parameters: Sequence[tf.Tensor] = (),
    ) -> tuple[list[tf.Tensor], Any]:
        """Takes one step.

        Args:
            gradients: list of tensors, one for each of `weights`.
            state: structure of tensors, the result of `init` or of the
                previous `update`.
            weights: list of tensors, the adapted weights.
            step: int or integer tensor, the number of the step, from 0.
            parameters: list of tensors, the learned parameters. Not passed if
                the rule learns nothing.

        Returns:
            A tuple `(weights, state)`.
        """
        raise NotImplementedError
