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
