"""The inner loop: from a support set and θ to the adapted weights."""

from typing import NamedTuple

import keras
import tensorflow as tf

from keras_maml import keras_internals
from keras_maml.engine.rematerialized_loop import RematerializedLoop
from keras_maml.engine.traced_step import TracedStep
from keras_maml.exact.gradients import dense

# The forms that have derivatives.
FORMS = ("unrolled", "traced_once", "rematerialized")


class Adapted(NamedTuple):
    """The result of the inner loop.

    Attributes:
        weights: list of tensors, the adapted weights θ_i.
        state: the learner's state after the last step.
        losses: tensor `(steps,)`, the support loss before each step. It has no
            gradient.
        watched: tensor `(steps,)`, the value of `watch` before each step. The
            value before the first step is always 0. `None` without `watch`.
    """

    weights: list[tf.Tensor]
    state: dict[int, tf.Tensor]
    losses: tf.Tensor
    watched: tf.Tensor | None


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
    form="unrolled",
    watch=None,
    loss_scale=1.0,
):
    """Takes `steps` gradient steps on the support loss.

    Args:
        support_loss: function `(number, weights, state, frozen)` that returns
            `(loss, state)`. `number` is the number of the step, from 0, and
            the loss is a scalar.
        weights: list of tensors, the adapted part of θ.
        state: the learner's state before the first step. The other forms than
            `"unrolled"` need all of it, and not only what has changed before.
        frozen: structure of float tensors that the steps do not change. It
            must hold everything else that the support loss depends on and
            that may need a gradient.
        optimizer: an `InnerOptimizer`.
        parameters: list of tensors, the learned parameters of `optimizer`.
        steps: int, 0 or more. An integer tensor with the form `"counted"`.
        second_order: bool. With `False`, the outer derivative treats the
            inner gradients as constants.
        form: string, one of `FORMS` or `"counted"`: how a graph has the
            steps. Unrolled, it has the operations of each step. Traced once,
            it has these only once, and a call for each step. Rematerialized,
            it has a `RematerializedLoop`. Counted, it has a loop of as many
            steps as a tensor says, which cannot be derived. Has no effect in
            eager execution, where `steps` is an int.
        watch: optional function with the arguments of `support_loss` that
            returns a scalar. It is called before each step but the first.
        loss_scale: float. The loss is multiplied by this scale before its
            gradient is taken, and the gradient is divided by it, so that a
            small gradient fits its dtype.

    Returns:
        An `Adapted`.

    Raises:
        ValueError: if the support loss does not depend on any of the weights.

    Reference:
        Finn et al., 2017, Algorithm 1, lines 5 and 6.
    """
    fixed = frozen, list(parameters)
    step = InnerStep(
        support_loss, optimizer, fixed, second_order, watch, loss_scale
    )
    flat_fixed = tf.nest.flatten(fixed)
    carry = (weights, optimizer.init(weights), state)
    if form == "counted":
        weights, _, state = _counted_steps(step, steps, carry, flat_fixed)
        return Adapted(weights, state, tf.zeros([0]), None)
    if tf.executing_eagerly() or form == "traced_once" and steps < 2:
        form = "unrolled"
    # `watch` is not called before the first step, so this step is another one.
    unrolled = steps if form == "unrolled" else min(steps, watch is not None)
    rows = []
    for number in range(unrolled):
        carry, scalars = step(number, carry, flat_fixed)
        rows.append(scalars)
    columns = [tf.stack(column) for column in zip(*rows)]
    if unrolled < steps:
        carry, others = _equal_steps(
            step, form, unrolled, steps, carry, flat_fixed
        )
        pairs = zip(columns, others)
        columns = [tf.concat(pair, 0) for pair in pairs] if rows else others
    weights, _, state = carry
    losses, watched = columns or [tf.zeros([0])] * 2
    return Adapted(weights, state, losses, None if watch is None else watched)


def _equal_steps(step, form, start, stop, carry, flat_fixed):
    """Returns the carry after steps that are traced once, and the columns."""
    traced = TracedStep(step, carry, flat_fixed)
    if form == "traced_once":
        rows = []
        for number in range(start, stop):
            carry, scalars = traced(number, carry, flat_fixed)
            rows.append(scalars)
        return carry, [tf.stack(column) for column in zip(*rows)]
    loop = RematerializedLoop(traced, start, stop)
    (*moved, state), columns = loop.run(carry, flat_fixed)
    # No derivative goes through the state. TensorFlow would vectorize for ever
    # a loop that is given one, and returns zeros for all tasks.
    state = _changes_as_constants(carry[-1], state)
    return (*moved, state), columns


def _counted_steps(step, count, carry, flat_fixed):
    """Returns the carry after steps whose number only a run tells."""
    traced = TracedStep(step, carry, flat_fixed)
    inputs = traced.inputs(carry, flat_fixed)

    @keras_internals.out_of_line
    def take(number, inputs):
        return traced.forward(number, inputs)[0]

    def body(number, *changed):
        now = list(inputs)
        for i, tensor in zip(traced.changed, changed):
            now[i] = tensor
        outputs = take(number, now)
        return number + 1, *(outputs[i] for i in traced.changed)

    _, *changed = tf.while_loop(
        lambda number, *_: number < tf.cast(count, number.dtype),
        body,
        (tf.constant(0), *(inputs[i] for i in traced.changed)),
        parallel_iterations=1,
    )
    flat = tf.nest.flatten(carry)
    for i, tensor in zip(traced.changed, changed):
        flat[i] = tensor
    return tf.nest.pack_sequence_as(carry, flat)


class InnerStep:
    """One gradient step, in the form that `TracedStep` needs.

    The carry is `(weights, optimizer state, learner state)`. The scalars are
    the support loss and the value of `watch`. `fixed` is the structure
    `(frozen, parameters)`. The other arguments are as in `inner_loop`.
    """

    def __init__(
        self, support_loss, optimizer, fixed, second_order, watch, loss_scale
    ):
        self._support_loss = support_loss
        self._optimizer = optimizer
        self._fixed = fixed
        self._second_order = second_order
        self._watch = watch
        self._loss_scale = loss_scale

    def __call__(self, number, carry, flat_fixed):
        frozen, parameters = tf.nest.pack_sequence_as(self._fixed, flat_fixed)
        weights, optimizer_state, state = carry
        watched = self._watched(number, weights, state, frozen)
        loss, gradients, state = self.gradients(number, weights, state, frozen)
        # As in Keras, derivatives do not go through moving averages.
        state = _changes_as_constants(carry[2], state)
        if not self._second_order:
            gradients = [tf.stop_gradient(gradient) for gradient in gradients]
        weights, optimizer_state = self.update(
            number, weights, optimizer_state, gradients, parameters
        )
        return (weights, optimizer_state, state), [loss, watched]

    def update(self, number, weights, optimizer_state, gradients, parameters):
        """Returns the weights and the state of the optimizer after a step."""
        return self._optimizer.update(
            gradients,
            optimizer_state,
            weights,
            number,
            *([parameters] if parameters else []),
        )

    def _watched(self, number, weights, state, frozen):
        floatx = keras.backend.floatx()
        if self._watch is None or isinstance(number, int) and number == 0:
            return tf.zeros([], floatx)
        return tf.cast(self._watch(number, weights, state, frozen), floatx)

    def gradients(self, number, weights, state, frozen):
        """Returns the support loss, its gradients, and the new state."""
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights)
            loss, state = self._support_loss(number, weights, state, frozen)
            scaled = loss
            if self._loss_scale != 1.0:
                scaled = loss * self._loss_scale
        gradients = tape.gradient(scaled, weights)
        if all(gradient is None for gradient in gradients):
            raise ValueError(
                "The inner loss does not depend on any weight that adapts, so "
                "the inner loop would change nothing. Look for a "
                "`stop_gradient` or an operation without a gradient between "
                "these weights and the learner's outputs. "
                f"Received: {len(weights)} adapted weights of shapes "
                f"{[tuple(weight.shape) for weight in weights]}"
            )
        gradients = [dense(g, w) for g, w in zip(gradients, weights)]
        if self._loss_scale != 1.0:
            gradients = [gradient / self._loss_scale for gradient in gradients]
        loss = tf.stop_gradient(tf.cast(loss, keras.backend.floatx()))
        return loss, gradients, state


def _changes_as_constants(before, after):
    unchanged = set(map(id, tf.nest.flatten(before)))
    return tf.nest.map_structure(
        lambda t: t if id(t) in unchanged else _constant(t), after
    )


def _constant(tensor):
    return tf.stop_gradient(tensor) if tensor.dtype.is_floating else tensor
