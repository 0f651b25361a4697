"""The inner loop: from a support set and θ to the adapted weights."""

from typing import Any
from typing import NamedTuple

import tensorflow as tf

# Steps that get nodes of their own in a graph. The others share those of a
# loop, so that neither tracing nor the graph grows with their number.
UNROLLED_STEPS = 5


class Adapted(NamedTuple):
    """What the inner loop gives.

    Attributes:
        weights: list of tensors, the adapted weights θ_i.
        state: the learner's state after the last step.
        losses: tensor `(steps,)`, the support loss before each step.
    """

    weights: list
    state: Any
    losses: Any


def inner_loop(
    support_loss,
    weights,
    state,
    frozen=(),
    *,
    optimizer,
    steps,
    second_order,
    rematerialize=False,
    unrolled_steps=UNROLLED_STEPS,
):
    """Takes `steps` gradient steps on the support loss.

    Args:
        support_loss: function of `(weights, state, frozen)` that returns
            `(loss, state)`, the loss a scalar.
        weights: list of tensors, the adapted part of θ.
        state: the learner's state before the first step.
        frozen: list of tensors, the part of θ that stays as it is.
        optimizer: an `InnerOptimizer`.
        steps: int, 0 or more.
        second_order: bool. With `False` the inner gradients are constants of
            the outer derivative.
        rematerialize: bool. Whether the outer derivative of the steps that
            are not unrolled computes each of them anew, instead of keeping
            what it computed the first time. Whatever else the support loss
            depends on counts as a constant then.
        unrolled_steps: int, at least 1: the first ones, which get nodes of
            their own in a graph.

    Returns:
        An `Adapted`.

    Reference:
        Finn et al., 2017, Algorithm 1, lines 5 and 6.
    """

    def step(number, carry, frozen):
        weights, optimizer_state, state = carry
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights)
            loss, state = support_loss(weights, state, frozen)
        gradients = [
            _dense(gradient, weight)
            for gradient, weight in zip(tape.gradient(loss, weights), weights)
        ]
        if not second_order:
            gradients = [tf.stop_gradient(gradient) for gradient in gradients]
        weights, optimizer_state = optimizer.update(
            gradients, optimizer_state, weights, number
        )
        return (weights, optimizer_state, state), loss

    carry = (weights, optimizer.init(weights), state)
    if tf.executing_eagerly():
        unrolled_steps = steps
    losses = []
    # These stay out of the loop also because the first adds to the state.
    for number in range(min(steps, unrolled_steps)):
        carry, loss = step(number, carry, frozen)
        losses.append(loss)
    losses = tf.stack(losses) if losses else tf.zeros([0])
    if steps > unrolled_steps:
        loop = rematerialized_loop if rematerialize else plain_loop
        carry, more_losses = loop(step, unrolled_steps, steps, carry, frozen)
        losses = tf.concat([losses, more_losses], 0)
    weights, _, state = carry
    return Adapted(weights, state, losses)


def plain_loop(step, start, stop, carry, frozen):
    """Steps from `start` to `stop`; a derivative keeps all they compute.

    Args:
        step: function `(number, carry, frozen)` that returns `(carry, loss)`.
        start: int, the number of the first step.
        stop: int, that of the step after the last.
        carry: structure of tensors, which goes from step to step.
        frozen: list of tensors.

    Returns:
        A tuple `(carry, losses)`, the losses a tensor `(stop - start,)`.
    """

    def body(number, carry, losses):
        carry, loss = step(number, carry, frozen)
        return number + 1, carry, losses.write(number - start, loss)

    _, carry, losses = tf.while_loop(
        lambda number, *_: number < stop,
        body,
        (
            tf.constant(start),
            carry,
            tf.TensorArray(_dtype(carry), stop - start, element_shape=()),
        ),
        # A step needs the one before it.
        parallel_iterations=1,
        maximum_iterations=stop - start,
    )
    return carry, losses.stack()


def rematerialized_loop(step, start, stop, carry, frozen):
    """As `plain_loop`, but a derivative keeps what each step began with.

    On the way back every step is computed again, and derived at once. Both
    ways are loops over dense tensors, which XLA can compile and
    `tf.vectorized_map` can vectorize.
    """
    count = stop - start
    structure = carry
    flat_carry = [tf.convert_to_tensor(t) for t in tf.nest.flatten(carry)]
    width = len(flat_carry)

    def flat_step(number, flat_carry, frozen):
        carry, loss = step(
            number, tf.nest.pack_sequence_as(structure, flat_carry), frozen
        )
        flat = [tf.convert_to_tensor(t) for t in tf.nest.flatten(carry)]
        return [*flat, loss]

    def forward(flat_carry, frozen):
        def body(i, flat_carry, kept, losses):
            kept = [_put(k, i, t) for k, t in zip(kept, flat_carry)]
            *flat_carry, loss = flat_step(start + i, flat_carry, frozen)
            return i + 1, flat_carry, kept, _put(losses, i, loss)

        _, flat_carry, kept, losses = _count_loop(
            count,
            body,
            flat_carry,
            [tf.zeros([count, *t.shape], t.dtype) for t in flat_carry],
            tf.zeros([count], _dtype(carry)),
        )
        return flat_carry, kept, losses

    def backward(frozen, kept, d_carry, d_losses):
        def body(i, d_carry, d_frozen):
            i_back = count - 1 - i
            # Tensors of their own: one that comes twice among the arguments
            # would get its whole derivative each time.
            at = [tf.identity(k[i_back]) for k in kept]
            theta = [tf.identity(t) for t in frozen]
            sources = [t for t in at if t.dtype.is_floating] + theta
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(sources)
                outputs = flat_step(start + i_back, at, theta)
            gradients = tape.gradient(
                [o for o in outputs if o.dtype.is_floating],
                sources,
                output_gradients=[*d_carry, d_losses[i_back]],
                unconnected_gradients="zero",
            )
            here = gradients[: len(d_carry)]
            added = [
                a + b for a, b in zip(d_frozen, gradients[len(d_carry) :])
            ]
            return i + 1, here, added

        _, d_carry, d_frozen = _count_loop(
            count, body, d_carry, [tf.zeros_like(t) for t in frozen]
        )
        return d_carry, d_frozen

    @tf.custom_gradient
    def loop(*arguments):
        frozen = arguments[width:]
        flat_carry, kept, losses = forward(list(arguments[:width]), frozen)

        def gradient(*d_outputs):
            *d_carry, d_losses = d_outputs
            floating = [t.dtype.is_floating for t in flat_carry]
            d_carry, d_frozen = backward(
                frozen,
                kept,
                [d for d, is_float in zip(d_carry, floating) if is_float],
                d_losses,
            )
            of_floats = iter(d_carry)
            return (
                *(next(of_floats) if f else None for f in floating),
                *d_frozen,
            )

        return (*flat_carry, losses), gradient

    *flat_carry, losses = loop(*flat_carry, *frozen)
    return tf.nest.pack_sequence_as(structure, flat_carry), losses


def _count_loop(count, body, *variables):
    return tf.while_loop(
        lambda i, *_: i < count,
        body,
        (tf.constant(0), *variables),
        parallel_iterations=1,
        maximum_iterations=count,
    )


def _put(tensor, i, row):
    return tf.tensor_scatter_nd_update(
        tensor, tf.reshape(i, [1, 1]), row[tf.newaxis]
    )


def _dtype(carry):
    """Of the losses: that of the weights."""
    return carry[0][0].dtype


def _dense(gradient, weight):
    """A tensor for every gradient: absent ones are 0, sparse ones expanded."""
    if gradient is None:
        return tf.zeros_like(weight)
    return tf.convert_to_tensor(gradient)
