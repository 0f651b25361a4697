"""The inner loop: from a support set and θ to the adapted weights."""

from typing import Any
from typing import NamedTuple

import tensorflow as tf


class Adapted(NamedTuple):
    """What the inner loop gives.

    Attributes:
        weights: list of tensors, the adapted weights θ_i.
        state: the learner's state after the last step.
        losses: list of scalars, the support loss before each step.
    """

    weights: list
    state: Any
    losses: list


def inner_loop(support_loss, weights, state, *, optimizer, steps, second_order):
    """Takes `steps` gradient steps on the support loss.

    Args:
        support_loss: function of `(weights, state)` that returns
            `(loss, state)`, the loss a scalar.
        weights: list of tensors, the adapted part of θ.
        state: the learner's state before the first step.
        optimizer: an `InnerOptimizer`.
        steps: int, 0 or more.
        second_order: bool. With `False` the inner gradients are constants of
            the outer derivative.

    Returns:
        An `Adapted`.

    Reference:
        Finn et al., 2017, Algorithm 1, lines 5 and 6.
    """
    optimizer_state = optimizer.init(weights)
    losses = []
    for step in range(steps):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights)
            loss, state = support_loss(weights, state)
        gradients = [
            _dense(gradient, weight)
            for gradient, weight in zip(tape.gradient(loss, weights), weights)
        ]
        if not second_order:
            gradients = [tf.stop_gradient(gradient) for gradient in gradients]
        weights, optimizer_state = optimizer.update(
            gradients, optimizer_state, weights, step
        )
        losses.append(loss)
    return Adapted(weights, state, losses)


def _dense(gradient, weight):
    """A tensor for every gradient: absent ones are 0, sparse ones expanded."""
    if gradient is None:
        return tf.zeros_like(weight)
    return tf.convert_to_tensor(gradient)
