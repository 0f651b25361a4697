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
        initial: float above 0, what every rate starts from. Defaults to
            `0.01`.
        per: how finely rates differ. `"model"`: one number; `"variable"`: one
            for the kernel, one for the bias of each layer and so on;
            `"weight"`: one for every single weight. Defaults to `"model"`.
        per_step: bool. Whether each inner step has rates of its own. There
            are as many as the `inner_steps` of training; further steps at
            evaluation use the last ones. Defaults to `False`.

    Nothing keeps a rate above 0: in Meta-SGD its sign is learned as well.

    Raises:
        ValueError: if an argument is not of that form.

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
        Antoniou et al., 2019, "How to train your MAML", section 4, LSLR, as
        in its released code; the paper speaks of one rate for a layer.
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

    def initial_values(self, variables: Sequence, steps: int) -> list:
        """The rates before meta-training.

        Args:
            variables: list of `keras.Variable`, those that adapt.
            steps: int, the inner steps while training.

        Returns:
            A list of numpy arrays: one if `per="model"`, otherwise one for
            each variable, of its shape if `per="weight"`. With a first axis
            of `steps` if `per_step`.
        """
        shapes = [tuple(v.shape) for v in variables]
        if self.per != "weight":
            shapes = [()] * len(shapes)
        if self.per == "model":
            shapes = shapes[:1]
        first = (steps,) if self.per_step else ()
        floatx = keras.backend.floatx()
        return [np.full(first + s, self.initial, floatx) for s in shapes]

    def rates(self, values: Sequence, step: Any, count: int) -> list:
        """The rate of each adapted weight at a step.

        Args:
            values: list of tensors, what became of `initial_values`.
            step: int or integer tensor.
            count: int, how many weights adapt.

        Returns:
            A list of tensors, scalars or of the weights' shapes.
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
