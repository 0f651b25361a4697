"""The way of the inner loop, looked at before and after each step."""

import keras
import tensorflow as tf

from keras_maml.engine.inner_loop import InnerStep

_FACTS = ("support_loss", "gradient_norm", "step_length")


def adaptation_path(
    support_loss,
    state,
    *,
    optimizer,
    parameters,
    steps,
    loss_scale,
    visit,
):
    """Takes the steps of `inner_loop`, without a derivative.

    Args:
        support_loss: a `SupportLoss`.
        state: dict, the whole state of the learner before the first step.
        optimizer: an `InnerOptimizer`.
        parameters: list of tensors, the learned parameters of `optimizer`.
        steps: int, 0 or more.
        loss_scale: float, as in `inner_loop`.
        visit: function `(number, weights, state)` that returns a dict of
            tensors, whose shapes do not depend on the number of the step.

    Returns:
        A tuple `(visits, facts, carry)`. `visits` has the results of `visit`
        before the first step and after each, stacked. `facts` is a dict of
        tensors of shape `(steps,)`: the `"support_loss"` before each step, the
        norm of its gradient, `"gradient_norm"`, and the distance that the
        weights move, `"step_length"`. `carry` is the weights, the state of
        the optimizer and the state of the learner after the last step.
    """
    step = _Step(support_loss, optimizer, list(parameters), loss_scale)
    start = support_loss.moving
    carry = (start, optimizer.init(start), state)
    first = visit(0, start, state)
    if not steps:
        visits = tf.nest.map_structure(lambda t: t[tf.newaxis], first)
        return visits, dict.fromkeys(_FACTS, tf.zeros([0])), carry

    def body(number, flat, visits, facts):
        after, values = step(number, tf.nest.pack_sequence_as(carry, flat))
        visited = visit(number + 1, after[0], after[2])
        visits = [
            array.write(number + 1, value)
            for array, value in zip(visits, tf.nest.flatten(visited))
        ]
        facts = [array.write(number, v) for array, v in zip(facts, values)]
        return number + 1, tf.nest.flatten(after), visits, facts

    visits = [
        tf.TensorArray(value.dtype, steps + 1).write(0, value)
        for value in tf.nest.flatten(first)
    ]
    facts = [tf.TensorArray(keras.backend.floatx(), steps) for _ in _FACTS]
    _, flat, visits, facts = tf.while_loop(
        lambda number, *_: number < steps,
        body,
        (tf.constant(0), tf.nest.flatten(carry), visits, facts),
    )
    stacked = [array.stack() for array in visits]
    return (
        tf.nest.pack_sequence_as(first, stacked),
        {name: array.stack() for name, array in zip(_FACTS, facts)},
        tf.nest.pack_sequence_as(carry, flat),
    )


class _Step:
    """An inner step and its facts.

    Args:
        support_loss, optimizer, loss_scale: as in `adaptation_path`.
        parameters: list of tensors.
    """

    def __init__(self, support_loss, optimizer, parameters, loss_scale):
        self._frozen = support_loss.frozen
        self._parameters = parameters
        self._step = InnerStep(
            support_loss,
            optimizer,
            (self._frozen, parameters),
            second_order=False,
            watch=None,
            loss_scale=loss_scale,
        )

    def __call__(self, number, carry):
        """Returns the carry after a step, and the values of `_FACTS`."""
        weights, optimizer_state, state = carry
        loss, gradients, state = self._step.gradients(
            number, weights, state, self._frozen
        )
        moved, optimizer_state = self._step.update(
            number, weights, optimizer_state, gradients, self._parameters
        )
        moves = [after - before for after, before in zip(moved, weights)]
        facts = [loss, _norm(gradients), _norm(moves)]
        return (moved, optimizer_state, state), facts


def _norm(tensors):
    return tf.linalg.global_norm(
        [tf.cast(tensor, keras.backend.floatx()) for tensor in tensors]
    )
