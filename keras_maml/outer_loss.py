"""The `outer_loss` axis: which inner steps' query losses count."""

from typing import Any

import keras
import tensorflow as tf

from keras_maml.settings import Settings
from keras_maml.settings import resolve
from keras_maml.validation import check_integer

__all__ = ["LastStep", "MultiStep", "OuterLoss", "get"]


class OuterLoss(Settings):
    """Base class: the weights of the query losses after each inner step.

    Attributes:
        needs_every_step: bool. Whether query losses after earlier inner steps
            count, and not the last one alone.
    """

    needs_every_step = True

    def weights(self, steps: int, iteration: Any) -> Any:
        """The weights in one step of the outer loop.

        Args:
            steps: int, at least 1, the inner steps.
            iteration: integer tensor, the outer steps so far.

        Returns:
            A tensor `(steps,)`, the weight of the query loss after inner step
            1, 2, ...; or `None` if the last one alone counts, and the others
            need not be computed.
        """
        raise NotImplementedError


@keras.saving.register_keras_serializable(package="keras_maml")
class LastStep(OuterLoss):
    """The query loss after the last inner step.

    Reference:
        Finn et al., 2017, Algorithm 1, line 8.
    """

    needs_every_step = False

    def weights(self, steps: int, iteration: Any) -> Any:
        return None


@keras.saving.register_keras_serializable(package="keras_maml")
class MultiStep(OuterLoss):
    """A weighted sum of the query losses after every inner step.

    All weights are equal at first; those of the earlier steps fall linearly
    over `annealing_iterations`, to no less than 3 % of that, in favour of the
    last step's; then that alone counts, though the others are still computed.

    Args:
        annealing_iterations: int, at least 1: outer steps (batches, not
            epochs).

    Raises:
        ValueError: if `annealing_iterations` is not a positive integer.

    Example:

    ```python
    meta_model = keras_maml.MetaModel(
        keras_maml.learners.mlp(),
        inner_steps=5,
        outer_loss=keras_maml.outer_loss.MultiStep(annealing_iterations=5000),
    )
    ```

    Reference:
        Antoniou et al., 2019, "How to train your MAML", section 4, equation 4
        (multi-step loss optimization); the floor of 3 % and the end of the
        earlier losses are those of its released code.
    """

    def __init__(self, annealing_iterations: int) -> None:
        self.annealing_iterations = check_integer(
            "annealing_iterations", annealing_iterations
        )

    def weights(self, steps: int, iteration: Any) -> Any:
        floatx = keras.backend.floatx()
        progress = tf.cast(iteration, floatx) / self.annealing_iterations
        earlier = tf.maximum(1.0 - progress, 0.03) / steps
        earlier = tf.where(progress < 1.0, earlier, tf.zeros([], floatx))
        last = 1.0 - (steps - 1) * earlier
        return tf.stack([earlier] * (steps - 1) + [last])

    def get_config(self) -> dict[str, Any]:
        return {"annealing_iterations": self.annealing_iterations}


_NAMES = {"last_step": LastStep}


def get(identifier: str | dict | OuterLoss) -> OuterLoss:
    """An `OuterLoss` from a name, a config or itself.

    Raises:
        ValueError: for anything else.
    """
    return resolve("outer_loss", identifier, OuterLoss, _NAMES)
