"""Learning rates that a search can set without tracing anew."""

import math

import keras
import tensorflow as tf


class AssignedRate(keras.optimizers.schedules.LearningRateSchedule):
    """A constant rate that one can assign.

    Attributes:
        value: `tf.Variable`, the rate.
    """

    def __init__(self):
        self.value = tf.Variable(1.0, trainable=False)

    def __call__(self, step):
        return self.value.read_value()

    def get_config(self):
        return {}


class CosineRate(AssignedRate):
    """A rate that falls from an assigned value to 0 along half a cosine.

    Args:
        steps: int, the steps until the rate is 0.
    """

    def __init__(self, steps):
        super().__init__()
        self._steps = steps

    def __call__(self, step):
        share = tf.minimum(tf.cast(step, tf.float32) / self._steps, 1.0)
        return self.value * 0.5 * (1 + tf.cos(math.pi * share))
