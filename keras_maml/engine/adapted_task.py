"""The learner after, or on its way through, the inner loop of one task."""

from collections.abc import Callable
from typing import Any
from typing import NamedTuple


class AdaptedTask(NamedTuple):
    """The learner after a task's inner loop.

    Attributes:
        weights: list of tensors, one for each of the learner's trainable
            variables, adapted or not.
        head: the kernel and bias of a head that started from prototypes, or
            an empty tuple.
        scales: list of tensors, the per-step scales of batch normalisation.
        state: dict, the learner's state (see `functional.LearnerOutput`).
        step: int or integer tensor, the number of inner steps taken.
        support_x: the support inputs.
        positions: list of ints, which of `weights` adapted.
        support_loss: function of a list like `weights`, the loss of the whole
            support set at these weights, without the meta-gradient's own term.
        watched: as in `inner_loop.Adapted`.
        loss_scale: float, by which a support loss is multiplied before it is
            derived.
    """

    weights: list
    head: tuple
    scales: list
    state: dict
    step: Any
    support_x: Any
    positions: list
    support_loss: Callable | None = None
    watched: Any = None
    loss_scale: float = 1.0
