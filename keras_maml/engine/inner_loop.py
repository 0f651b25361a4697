"""The inner loop: from a support set and θ to the adapted weights."""

import functools
from typing import Any
from typing import NamedTuple

import keras
import tensorflow as tf

# So many steps get nodes of their own in a graph, which is the faster. Of more,
# all but the first share those of a loop: tracing does not grow with them.
UNROLLED_STEPS = 5


class Adapted(NamedTuple):
    """What the inner loop gives.

    Attributes:
        weights: list of tensors, the adapted weights θ_i.
        state: the learner's state after the last step.
        losses: tensor `(steps,)`, the support loss before each step.
        watched: tensor `(steps,)`, what `watch` gave before each step but the
            first, where it is 0; `None` without `watch`.
    """

    weights: list
    state: Any
    losses: Any
    watched: Any


def inner_loop(
    support_loss,
    weights,
    state,
    frozen=(),
    *,
    optimizer,
    parameters=(),
    steps,
    second_order,
    unrolled_steps,
    watch=None,
    loss_scale=1.0,
):
    """Takes `steps` gradient steps on the support loss.

    Args:
        support_loss: function of `(number, weights, state, frozen)` that
            returns `(loss, state)`, the loss a scalar; `number` counts the
            steps from 0.
        weights: list of tensors, the adapted part of θ.
        state: the learner's state before the first step.
        frozen: structure of float tensors that stay as they are: all else
            that the support loss depends on and that may be derived for.
        optimizer: an `InnerOptimizer`.
        parameters: list of tensors, what `optimizer` has learned.
        steps: int, 0 or more.
        second_order: bool. With `False` the inner gradients are constants of
            the outer derivative.
        unrolled_steps: int, at least 1: the first ones, of which a derivative
            keeps all that they computed, and which get nodes of their own in
            a graph. Those after them share the nodes of a loop.
        watch: optional function with the arguments of `support_loss` that
            returns a scalar, to be had before each step but the first.
        loss_scale: float, by which the loss is multiplied before it is
            derived, and its gradients divided after, for gradients that would
            be too small for their dtype.

    Returns:
        An `Adapted`.

    Reference:
        Finn et al., 2017, Algorithm 1, lines 5 and 6.
    """
    fixed = frozen, list(parameters)

    def step(number, carry, flat_fixed):
        frozen, parameters = tf.nest.pack_sequence_as(fixed, flat_fixed)
        weights, optimizer_state, state = carry
        scalars = []
        if watch is not None:
            first = isinstance(number, int) and number == 0
            scalars.append(
                tf.zeros([], keras.backend.floatx())
                if first
                else tf.cast(
                    watch(number, weights, state, frozen),
                    keras.backend.floatx(),
                )
            )
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights)
            loss, state = support_loss(number, weights, state, frozen)
            scaled = loss if loss_scale == 1.0 else loss * loss_scale
        gradients = [
            _dense(gradient, weight)
            for gradient, weight in zip(tape.gradient(scaled, weights), weights)
        ]
        if loss_scale != 1.0:
            gradients = [gradient / loss_scale for gradient in gradients]
        # As ever in Keras, derivatives do not go through moving averages.
        state = tf.nest.map_structure(_constant, state)
        if not second_order:
            gradients = [tf.stop_gradient(gradient) for gradient in gradients]
        weights, optimizer_state = optimizer.update(
            gradients,
            optimizer_state,
            weights,
            number,
            *([parameters] if parameters else []),
        )
        return (weights, optimizer_state, state), [loss, *scalars]

    flat_fixed = tf.nest.flatten(fixed)
    carry = (weights, optimizer.init(weights), state)
    if tf.executing_eagerly():
        unrolled_steps = steps
    rows = []
    # These stay out of the loop also because the first adds to the state.
    for number in range(min(steps, unrolled_steps)):
        carry, scalars = step(number, carry, flat_fixed)
        rows.append(scalars)
    columns = [tf.stack(column) for column in zip(*rows)]
    if steps > unrolled_steps:
        carry, more = rematerialized_loop(
            step, unrolled_steps, steps, carry, flat_fixed, rows[0]
        )
        columns = [tf.concat(pair, 0) for pair in zip(columns, more)]
    if not columns:
        columns = [tf.zeros([0])] * 2
    weights, _, state = carry
    return Adapted(
        weights, state, columns[0], None if watch is None else columns[1]
    )


def rematerialized_loop(step, start, stop, carry, frozen, like):
    """Steps from `start` to `stop`, of which a derivative keeps the beginnings.

    On the way back every step is computed again from what it began with, and
    derived at once: memory is that of one step. Both ways are loops over
    dense tensors, which XLA can compile and `tf.vectorized_map` can vectorize.

    Args:
        step: function `(number, carry, frozen)` that returns
            `(carry, scalars)`, a structure like `carry` and a list.
        start: int, the number of the first step.
        stop: int, that of the step after the last.
        carry: structure of tensors, which goes from step to step.
        frozen: list of tensors. What else `step` depends on is a constant to
            derivatives. It is called again on the way back, and has to do the
            same then: random numbers must come from a seed in `carry`.
        like: list of tensors with the dtypes of the scalars.

    Returns:
        A tuple `(carry, columns)`, the scalars as tensors `(stop - start,)`.
    """
    count = stop - start
    structure = carry
    flat_carry = [tf.convert_to_tensor(t) for t in tf.nest.flatten(carry)]
    width = len(flat_carry)

    # Out of line: TensorFlow's memory optimiser, which sees only what is
    # inlined, breaks large sums in a loop ("tmp_var ... already exists").
    out_of_line = functools.partial(
        tf.function,
        autograph=False,
        experimental_attributes={"_noinline": True},
    )

    def flat_step(number, flat_carry, frozen):
        carry, scalars = step(
            number, tf.nest.pack_sequence_as(structure, flat_carry), frozen
        )
        flat = [tf.convert_to_tensor(t) for t in tf.nest.flatten(carry)]
        return [*flat, *scalars]

    def derived_step(number, flat_carry, frozen, d_outputs):
        # Tensors of their own: one that comes twice among the arguments would
        # get its whole derivative each time.
        flat_carry = [tf.identity(t) for t in flat_carry]
        frozen = [tf.identity(t) for t in frozen]
        sources = [t for t in flat_carry if t.dtype.is_floating] + frozen
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(sources)
            outputs = flat_step(number, flat_carry, frozen)
        gradients = tape.gradient(
            [o for o in outputs if o.dtype.is_floating],
            sources,
            output_gradients=d_outputs,
            unconnected_gradients="zero",
        )
        split = len(sources) - len(frozen)
        return gradients[:split], gradients[split:]

    def forward(flat_carry, frozen):
        call = out_of_line(flat_step)

        def body(i, flat_carry, kept, columns):
            kept = [_put(k, i, t) for k, t in zip(kept, flat_carry)]
            outputs = call(start + i, flat_carry, frozen)
            columns = [
                _put(column, i, scalar)
                for column, scalar in zip(columns, outputs[width:])
            ]
            return i + 1, outputs[:width], kept, columns

        _, flat_carry, kept, columns = _count_loop(
            count,
            body,
            flat_carry,
            [_rows(count, t) for t in flat_carry],
            [tf.zeros([count], scalar.dtype) for scalar in like],
        )
        return flat_carry, kept, columns

    def backward(frozen, kept, d_carry, d_columns):
        call = out_of_line(derived_step)

        def body(i, d_carry, d_frozen):
            back = count - 1 - i
            d_carry, more = call(
                start + back,
                [k[back] for k in kept],
                frozen,
                [*d_carry, *(d[back] for d in d_columns)],
            )
            return i + 1, d_carry, [a + b for a, b in zip(d_frozen, more)]

        _, d_carry, d_frozen = _count_loop(
            count, body, d_carry, [tf.zeros_like(t) for t in frozen]
        )
        return d_carry, d_frozen

    @tf.custom_gradient
    def loop(*arguments):
        frozen = list(arguments[width:])
        flat_carry, kept, columns = forward(list(arguments[:width]), frozen)

        def gradient(*d_outputs, variables=None):
            d_carry, d_columns = d_outputs[:width], d_outputs[width:]
            floating = [t.dtype.is_floating for t in flat_carry]
            d_carry, d_frozen = backward(
                frozen,
                kept,
                [d for d, is_float in zip(d_carry, floating) if is_float],
                d_columns,
            )
            of_floats = iter(d_carry)
            gradients = (
                *(next(of_floats) if f else None for f in floating),
                *d_frozen,
            )
            # Variables that were read, those of frozen layers, are constants.
            return (
                (gradients, [None] * len(variables)) if variables else gradients
            )

        return (*flat_carry, *columns), gradient

    outputs = loop(*flat_carry, *frozen)
    return (
        tf.nest.pack_sequence_as(structure, list(outputs[:width])),
        list(outputs[width:]),
    )


def _count_loop(count, body, *variables):
    return tf.while_loop(
        lambda i, *_: i < count,
        body,
        (tf.constant(0), *variables),
        parallel_iterations=1,
        maximum_iterations=count,
    )


def _rows(count, like):
    """Zeros: a row of the shape of `like` for each step."""
    shape = like.shape if like.shape.is_fully_defined() else tf.shape(like)
    rows = tf.zeros(tf.concat([[count], shape], 0), like.dtype)
    return tf.ensure_shape(rows, [count, *like.shape])


def _put(tensor, i, row):
    return tf.tensor_scatter_nd_update(
        tensor, tf.reshape(i, [1, 1]), row[tf.newaxis]
    )


def _constant(tensor):
    return tf.stop_gradient(tensor) if tensor.dtype.is_floating else tensor


def _dense(gradient, weight):
    """A tensor for every gradient: absent ones are 0, sparse ones expanded."""
    if gradient is None:
        return tf.zeros_like(weight)
    return tf.convert_to_tensor(gradient)
