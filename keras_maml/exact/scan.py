"""A loop over a sequence, with derivatives of any order, without lists.

TensorFlow's derivative of a `tf.while_loop` keeps lists of tensors, which
cannot get a task axis. The derivative of this loop is such a loop again, over
the same steps in reverse, which computes each step once more.
"""

import tensorflow as tf

from keras_maml import tensorflow_internals
from keras_maml.exact.gradients import custom_gradient
from keras_maml.exact.gradients import dense


def scan(step, carry, xs):
    """Takes a step for each row of a sequence.

    Args:
        step: function of two lists of tensors, the carry and a row of each of
            `xs`. It returns two lists of tensors: the next carry, like the
            carry, and the outputs. It is traced once. Tensors from outside
            get gradients too.
        carry: list of floating tensors.
        xs: list of tensors `(L, ...)`. L is known.

    Returns:
        A tuple of two lists: the last carry, and the outputs of all steps,
        `(L, ...)`.
    """
    width = len(carry)

    def flat_step(*tensors):
        carry, outputs = step(list(tensors[:width]), list(tensors[width:]))
        return [*carry, *outputs]

    traced = _traced(flat_step, [*carry, *_rows(xs)])
    count = width + len(xs)
    weights = {
        id(tensor): tensor
        for tensor in traced.captured_inputs
        if tensor.dtype.is_floating
    }

    def explicit_step(*tensors):
        given = dict(zip(weights, tensors[count:], strict=True))
        captured = [given.get(id(t), t) for t in traced.captured_inputs]
        return tensorflow_internals.call_with_captured(
            traced, tensors[:count], captured
        )

    loop = _Loop(explicit_step, traced.outputs, width)
    values = loop.run([*carry, *xs, *weights.values()], xs)
    return values[:width], values[2 * width :]


class _Loop:
    """A loop over a step of which all inputs are arguments.

    Args:
        step: function of flat tensors: the carry, rows and weights. It returns
            the next carry and the outputs.
        outputs: what a step returns, for shapes and dtypes.
        width: int, the number of tensors of the carry.
    """

    def __init__(self, step, outputs, width):
        self._step = step
        self._outputs = outputs
        self._width = width

    def run(self, inputs, xs):
        """Runs the loop.

        Args:
            inputs: list of tensors: the carry, `xs` and the weights.
            xs: list of tensors `(L, ...)`, a part of `inputs`.

        Returns:
            A flat list: the last carry, the carries before each step, which a
            derivative needs, and the outputs.
        """
        # A derivative goes through `attached` alone.
        with tensorflow_internals.stop_recording():
            values = self._values(inputs, len(xs))
        count, width = len(inputs), self._width

        # The derivative gets the values as arguments, so that it does not run
        # the loop again.
        @custom_gradient
        def attached(*tensors):
            def gradient(*d_values):
                d_values = [tf.convert_to_tensor(d) for d in d_values]
                befores = attached(*tensors)[width : 2 * width]
                d_inputs = self._gradients(
                    tensors[:count], len(xs), befores, d_values
                )
                return [*d_inputs, *[None] * (len(tensors) - count)]

            return [tf.identity(t) for t in tensors[count:]], gradient

        return attached(*inputs, *values)

    def _values(self, inputs, rows):
        """Returns what `run` returns, without derivatives."""
        width = self._width
        xs = inputs[width : width + rows]
        weights = inputs[width + rows :]
        length = xs[0].shape[0]
        zero = _zero(xs)

        def zeros(row):
            return _plus(tf.zeros([length, *row.shape], row.dtype), zero)

        def body(i, carry, befores, ys):
            befores = [_with_row(b, i, c) for b, c in zip(befores, carry)]
            results = self._step(*carry, *(x[i] for x in xs), *weights)
            ys = [_with_row(y, i, r) for y, r in zip(ys, results[width:])]
            return i + 1, list(results[:width]), befores, ys

        carry = [_plus(tensor, zero) for tensor in inputs[:width]]
        _, carry, befores, ys = tf.while_loop(
            lambda i, *_: i < length,
            body,
            (
                tf.constant(0),
                carry,
                [zeros(tensor) for tensor in carry],
                [zeros(tensor) for tensor in self._outputs[width:]],
            ),
            maximum_iterations=length,
        )
        return [*carry, *befores, *ys]

    def _gradients(self, inputs, rows, befores, d_values):
        """Returns the gradients for `inputs`, by a loop in reverse.

        The carry of that loop is the gradient for the carry, and the sums of
        the gradients for the weights. Its rows are the carries before each
        step, the rows, and the gradients for these carries and for the outputs.
        """
        width = self._width
        xs = inputs[width : width + rows]
        weights = inputs[width + rows :]
        is_float = [x.dtype.is_floating for x in xs]
        sources = [*befores, *xs]
        back_xs = [tf.reverse(t, [0]) for t in [*sources, *d_values[width:]]]
        carry = [*d_values[:width], *(tf.zeros_like(w) for w in weights)]

        def back_step(*tensors):
            d_carry, tensors = _cut(tensors, len(carry))
            tensors, d_before, d_y, weights = _cut(
                tensors, len(sources), width, len(d_values) - 2 * width
            )
            d_before_step, d_x, d_weights = self._step_gradients(
                [*tensors, *weights], rows, [*d_carry[:width], *d_y]
            )
            sums = [*d_before_step, *d_weights]
            more = [*d_before, *d_carry[width:]]
            return [*(a + b for a, b in zip(sums, more)), *d_x]

        traced = _traced(back_step, [*carry, *_rows(back_xs), *weights])
        loop = _Loop(traced, traced.outputs, len(carry))
        values = loop.run([*carry, *back_xs, *weights], back_xs)
        d_xs = iter(values[2 * len(carry) :])
        return [
            *values[:width],
            *(tf.reverse(next(d_xs), [0]) if f else None for f in is_float),
            *values[width : len(carry)],
        ]

    def _step_gradients(self, inputs, rows, d_outputs):
        """Returns the gradients of a step for its carry, rows and weights."""
        carry, xs, weights = _cut(inputs, self._width, rows)
        xs = [x for x in xs if x.dtype.is_floating]
        sources = [*carry, *xs, *weights]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(sources)
            outputs = self._step(*inputs)
        gradients = tape.gradient(outputs, sources, d_outputs)
        gradients = [dense(g, t) for g, t in zip(gradients, sources)]
        return _cut(gradients, self._width, len(xs))


def _zero(xs):
    """Returns a 0 that depends on the sequence.

    What a loop starts from must depend on the task, if what it returns does.
    Otherwise `tf.vectorized_map` would convert the loop twice.
    """
    numbers = [x for x in xs if x.dtype.is_floating]
    if not numbers:
        return tf.zeros([])
    # Not the number times 0: that is NaN for NaN.
    is_nan = tf.math.is_nan(tf.reshape(numbers[0], [-1])[0])
    return tf.cast(is_nan, tf.float32) * 0.0


def _plus(tensor, zero):
    return tensor + tf.cast(zero, tensor.dtype)


def _traced(function, tensors):
    specs = [tf.TensorSpec(t.shape, t.dtype) for t in tensors]
    function = tf.function(function, autograph=False)
    return function.get_concrete_function(*specs)


def _rows(xs):
    return [tf.TensorSpec(x.shape[1:], x.dtype) for x in xs]


def _cut(tensors, *counts):
    """Returns parts of a list, and what is left of it."""
    parts = []
    for count in counts:
        parts.append(list(tensors[:count]))
        tensors = tensors[count:]
    return [*parts, list(tensors)]


def _with_row(tensor, i, row):
    return tf.tensor_scatter_nd_update(
        tensor, tf.reshape(i, [1, 1]), row[tf.newaxis]
    )
