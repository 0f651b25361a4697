"""What an update rule of the inner loop is."""

from collections.abc import Sequence
from typing import Any

from keras_maml.settings import Settings


class InnerOptimizer(Settings):
    """Base class of the inner loop's update rules.

    A Keras optimizer assigns to variables, so its steps have no derivative.
    An inner optimizer consists of pure functions of tensors instead.
    Subclasses define `init` and `update`, and keep their arguments for
    `get_config`. What a rule has to learn, such as its rates, it names in
    `parameters`: the outer optimizer trains it along with θ.
    """

    @property
    def seeks_minimum(self) -> bool:
        """Whether the rule stands still only where the gradient is 0.

        The implicit meta-gradient assumes that.
        """
        return True

    @property
    def needs_fixed_weights(self) -> bool:
        """Whether what is learned belongs to single weights of the learner.

        Then there can be no weights beside these, as those of a head from
        prototypes.
        """
        return False

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
