"""Learning rates of the inner loop that the outer loop trains."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_maml.settings import Settings
from keras_maml.validation import check_bool
from keras_maml.validation import check_number

_SHARED = ("model", "variable", "weight")


@keras.saving.register_keras_serializable(package="keras_maml")
class LearnedRate(Settings):
    """An inner learning rate that the outer optimizer trains along with θ.

    Args:
        initial: float above 0, the initial value of all rates. Defaults to
            `0.01`.
        per: string, the unit that has one rate. `"model"` means one rate for
            the model, `"variable"` one for each variable, such as a kernel or
            a bias, and `"weight"` one for every single weight. Defaults to
            `"model"`.
        per_step: bool. Whether each of the `inner_steps` of training has its
            own rates. Further steps in evaluation use the rates of the last
            step. Defaults to `False`.

    Training can make a rate negative, as in Meta-SGD.

    Raises:
        ValueError: if an argument does not have this form.

    Example:

    ```python
    meta_sgd = keras_maml.MetaModel(
        keras_maml.learners.mlp(),
        inner_optimizer=keras_maml.inner_optimizers.SGD(
            keras_maml.inner_optimizers.LearnedRate(0.01, per="weight")
        ),
    )
    ```

    Reference:
        `per="weight"`: Li et al., 2017, "Meta-SGD: Learning to Learn Quickly
        for Few-Shot Learning", equation 2. `per="variable"` with `per_step`:
        Antoniou et al., 2019, "How to train your MAML", section 4, LSLR.
        Deviation: one rate per variable, as in the released code. The paper
        has one rate per layer.
    """

    def __init__(
        self,
        initial: float = 0.01,
        per: str = "model",
        per_step: bool = False,
    ) -> None:
        self.initial = check_number("initial", initial, above=0)
        if per not in _SHARED:
            raise ValueError(
                f"`per` must be one of {_SHARED}. Received: per={per!r}"
            )
        self.per = per
        self.per_step = check_bool("per_step", per_step)

    def initial_values(
        self, variables: Sequence[keras.Variable], steps: int
    ) -> list[np.ndarray]:
        """Returns the rates before meta-training.

        Args:
            variables: list of `keras.Variable`, the variables that adapt.
            steps: int, the number of inner steps in training.

        Returns:
            A list of numpy arrays. With `per="model"` it has one scalar, with
            `per="variable"` one scalar for each variable, and with
            `per="weight"` an array of the shape of each variable. With
            `per_step`, each array has a further first axis of size `steps`.
        """
        shapes = [tuple(v.shape) for v in variables]
        if self.per != "weight":
            shapes = [()] * len(shapes)
        if self.per == "model":
            shapes = shapes[:1]
        step_axis = (steps,) if self.per_step else ()
        floatx = keras.backend.floatx()
        return [np.full(step_axis + s, self.initial, floatx) for s in shapes]

    def rates(
        self, values: Sequence[tf.Tensor], step: int | tf.Tensor, count: int
    ) -> list[tf.Tensor]:
        """Returns the rate of each adapted weight at a step.

        Args:
            values: list of tensors, the current rates, in the form of
                `initial_values`.
            step: int or integer tensor, the number of the step.
            count: int, the number of weights that adapt.

        Returns:
            A list of tensors, one for each adapted weight. Each is a scalar or
            has the shape of the weight.
        """
        if self.per_step:
            values = [v[tf.minimum(step, v.shape[0] - 1)] for v in values]
        return list(values) * (count if self.per == "model" else 1)

    def get_config(self) -> dict[str, Any]:
        return {
            "initial": self.initial,
            "per": self.per,
            "per_step": self.per_step,
        }
