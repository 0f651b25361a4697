"""The `inner_optimizer` axis: how adapted weights move in the inner loop."""

import numbers

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


def get(identifier: float | str | dict | InnerOptimizer) -> InnerOptimizer:
    """An `InnerOptimizer` from a rate of plain SGD, a name, a config or itself.

    Raises:
        ValueError: for anything else.
    """
    if isinstance(identifier, numbers.Real) and not isinstance(
        identifier, bool
    ):
        return SGD(identifier)
    hint = " A learning rate alone is plain SGD."
    if isinstance(identifier, keras.optimizers.Optimizer):
        hint = (
            " A Keras optimizer cannot be differentiated through: it assigns "
            "to variables."
        )
    return resolve("inner_optimizer", identifier, InnerOptimizer, _NAMES, hint)
