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
            count. With `False`, only the query loss after the last one counts.

    Example:

    ```python
    class EveryStep(keras_maml.outer_loss.OuterLoss):
        def weights(self, steps, iteration):
            return tf.ones([steps]) / steps

    meta_model = keras_maml.MetaModel(
        keras_maml.learners.mlp(), inner_steps=3, outer_loss=EveryStep()
    )
    ```
    """

    needs_every_step = True

    def weights(self, steps: int, iteration: tf.Tensor) -> tf.Tensor | None:
        """Returns the weights of the query losses in one outer step.

        Args:
            steps: int, at least 1, the number of inner steps.
            iteration: integer tensor, the number of outer steps so far.

        Returns:
            A tensor `(steps,)`, the weights of the query losses after inner
            steps 1, 2, ... `None` means that only the last query loss counts,
            and that the others need not be computed.
        """
        raise NotImplementedError


@keras.saving.register_keras_serializable(package="keras_maml")
class LastStep(OuterLoss):
    """The query loss after the last inner step.

    Example:

    ```python
    meta_model = keras_maml.MetaModel(
        keras_maml.learners.mlp(), outer_loss=keras_maml.outer_loss.LastStep()
    )
    ```

    Reference:
        Finn et al., 2017, Algorithm 1, line 8.
    """

    needs_every_step = False

    def weights(self, steps: int, iteration: tf.Tensor) -> None:
        return None


@keras.saving.register_keras_serializable(package="keras_maml")
class MultiStep(OuterLoss):
    """A weighted sum of the query losses after every inner step.

    All weights are equal at first. Over `annealing_iterations`, the weights of
    the earlier steps fall linearly to 3 % of their initial value, and the
    weight of the last step grows. After that, only the last step counts; the
    other losses are still computed.

    Args:
        annealing_iterations: int, at least 1, the number of outer steps
            (batches, not epochs) in which the weights change.

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
        (multi-step loss optimization). The floor of 3 % and the end of the
        earlier losses follow the released code.
    """

    def __init__(self, annealing_iterations: int) -> None:
        self.annealing_iterations = check_integer(
            "annealing_iterations", annealing_iterations
        )

    def weights(self, steps: int, iteration: tf.Tensor) -> tf.Tensor:
        floatx = keras.backend.floatx()
        progress = tf.cast(iteration, floatx) / self.annealing_iterations
        earlier = tf.maximum(1.0 - progress, 0.03) / steps
        earlier = tf.where(progress < 1.0, earlier, tf.zeros([], floatx))
        last = 1.0 - (steps - 1) * earlier
        return tf.stack([earlier] * (steps - 1) + [last])

    def get_config(self) -> dict[str, Any]:
        return {"annealing_iterations": self.annealing_iterations}


_NAMES = {"last_step": LastStep}


def get(identifier: str | dict[str, Any] | OuterLoss) -> OuterLoss:
    """Returns the `OuterLoss` of a name or config, or the object itself.

    Raises:
        ValueError: if `identifier` is something else.

    Example:

    ```python
    outer_loss = keras_maml.outer_loss.get("last_step")
    ```
    """
    return resolve("outer_loss", identifier, OuterLoss, _NAMES)
