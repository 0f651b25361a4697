"""The `inner_optimizer` axis: how adapted weights move in the inner loop."""

import numbers
from typing import Any

import keras

from keras_maml.inner_optimizers.adagrad import Adagrad
from keras_maml.inner_optimizers.adam import Adam
from keras_maml.inner_optimizers.adam import AdamW
from keras_maml.inner_optimizers.gradient_rule import GradientRule
from keras_maml.inner_optimizers.inner_optimizer import InnerOptimizer
from keras_maml.inner_optimizers.learned_rate import LearnedRate
from keras_maml.inner_optimizers.rmsprop import RMSprop
from keras_maml.inner_optimizers.sgd import SGD
from keras_maml.settings import resolve

__all__ = [
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "GradientRule",
    "InnerOptimizer",
    "LearnedRate",
    "RMSprop",
    "get",
]


_NAMES = {
    "adagrad": Adagrad,
    "adam": Adam,
    "adamw": AdamW,
    "rmsprop": RMSprop,
    "sgd": SGD,
}


def get(
    identifier: float | str | dict[str, Any] | InnerOptimizer,
) -> InnerOptimizer:
    """Returns the `InnerOptimizer` of a rate, name or config, or the object.

    A rate means plain SGD.

    Raises:
        ValueError: if `identifier` is something else.

    Example:

    ```python
    inner_optimizer = keras_maml.inner_optimizers.get("adam")
    ```
    """
    if isinstance(identifier, numbers.Real) and not isinstance(
        identifier, bool
    ):
        return SGD(identifier)
    hint = " A number is the learning rate of plain SGD."
    if isinstance(identifier, keras.optimizers.Optimizer):
        hint = (
            " A Keras optimizer cannot be differentiated through, because it "
            "assigns to variables."
        )
    return resolve("inner_optimizer", identifier, InnerOptimizer, _NAMES, hint)
