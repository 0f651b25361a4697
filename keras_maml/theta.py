"""θ: everything that the outer loop trains."""

from typing import NamedTuple

import keras
import tensorflow as tf


class Theta(NamedTuple):
    """θ, as variables or as their values.

    Attributes:
        weights: list with one entry for each of the learner's trainable
            variables, adapted or not.
        parameters: list of the inner optimizer's learned parameters, such as
            rates.
        scales: list of the per-step scales and shifts of batch normalisation.
    """

    weights: list[tf.Tensor | keras.Variable]
    parameters: list[tf.Tensor | keras.Variable]
    scales: list[tf.Tensor | keras.Variable]
