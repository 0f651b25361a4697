"""The learner in one task, during or after the inner loop."""

from collections.abc import Callable
from typing import Any
from typing import NamedTuple

import tensorflow as tf


class AdaptedTask(NamedTuple):
    """The learner in one task, during or after the inner loop.

    Attributes:
        weights: list of tensors, one for each of the learner's trainable
            variables, adapted or not.
        head: the kernel and bias of a head that started from prototypes, or
            an empty tuple.
        scales: list of tensors, the per-step scales of batch normalisation.
        state: dict, the learner's state (see `functional.LearnerOutput`).
        step: int or integer tensor, the number of inner steps taken.
        support_x: structure of tensors, the support inputs.
        positions: list of ints, the positions of adapted weights in `weights`.
        support_loss: function `(weights)` that returns the loss of the whole
            support set, without the term of the meta-gradient.
        losses, watched: tensors, as in `inner_loop.Adapted`.
        loss_scale: float. The support loss is multiplied by this scale before
            its gradient is taken.
    """

    weights: list[tf.Tensor]
    head: tuple[tf.Tensor, ...]
    scales: list[tf.Tensor]
    state: dict[int, tf.Tensor]
    step: int | tf.Tensor
    support_x: Any
    positions: list[int]
    support_loss: Callable[[list[tf.Tensor]], tf.Tensor] | None = None
    losses: tf.Tensor | None = None
    watched: tf.Tensor | None = None
    loss_scale: float = 1.0
