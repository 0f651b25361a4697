"""A loop of inner steps whose memory does not grow with their number."""

import functools

import tensorflow as tf

from keras_maml.exact.gradients import dense_gradients


class RematerializedLoop:
    """Steps of which a derivative keeps nothing but what each began with.

    On the way back each step is computed again from its beginning, and derived
    at once: memory is that of one step. Both ways are loops over dense
    tensors, which XLA can compile and `tf.vectorized_map` can vectorize.

    Args:
        step: function `(number, carry, frozen)` that returns
            `(carry, scalars)`: a structure like `carry`, and a list of tensors.
        start: int, the number of the first step.
        stop: int, the number after the last step.
        carry: structure of tensors, which goes from step to step.
        frozen: list of tensors. To derivatives, what else `step` depends on is
            a constant. `step` is called again on the way back and has to do
            the same then: random numbers must come from a seed in `carry`.
        scalar_dtypes: list of dtypes, those of the scalars.
    """

    def __init__(self, step, start, stop, carry, frozen, scalar_dtypes):
        self._step = step
        self._start = start
        self._count = stop - start
        self._structure = carry
        self._carry = [tf.convert_to_tensor(t) for t in tf.nest.flatten(carry)]
        self._frozen = list(frozen)
        self._scalar_dtypes = list(scalar_dtypes)

    def run(self):
        """Takes the steps.

        Returns:
            A tuple `(carry, columns)`: the carry after the last step, and each
            of the scalars as a tensor `(stop - start,)`.
        """
        width = len(self._carry)

        @tf.custom_gradient
        def loop(*arguments):
            frozen = list(arguments[width:])
            carry, kept, columns = self._forward(arguments[:width], frozen)

            def gradient(*d_outputs, variables=None):
                # Those of weights that are looked up come as sparse ones.
                d_outputs = [tf.convert_to_tensor(d) for d in d_outputs]
                gradients = self._backward(
                    frozen, kept, d_outputs[:width], d_outputs[width:]
                )
                # Variables that were read, those of frozen layers, are
                # constants.
                if variables:
                    return gradients, [None] * len(variables)
                return gradients

            return (*carry, *columns), gradient

        outputs = loop(*self._carry, *self._frozen)
        carry = tf.nest.pack_sequence_as(self._structure, outputs[:width])
        return carry, list(outputs[width:])

    def _forward(self, carry, frozen):
        """The carry after all steps, what each began with, and the scalars."""
        call = _out_of_line(self._flat_step)
        width = len(self._carry)

        def body(i, carry, kept, columns):
            kept = [_put(k, i, t) for k, t in zip(kept, carry)]
            outputs = call(self._start + i, carry, frozen)
            columns = [
                _put(column, i, scalar)
                for column, scalar in zip(columns, outputs[width:])
            ]
            return i + 1, outputs[:width], kept, columns

        carry = list(carry)
        _, carry, kept, columns = self._loop(
            body,
            carry,
            [_stacked_zeros(self._count, t) for t in carry],
            [tf.zeros([self._count], dtype) for dtype in self._scalar_dtypes],
        )
        return carry, kept, columns

    def _backward(self, frozen, kept, d_carry, d_columns):
        """Gradients for the carry and for `frozen`, by steps from the last."""
        call = _out_of_line(self._derived_step)
        floating = [t.dtype.is_floating for t in self._carry]

        def body(i, d_carry, d_frozen):
            back = self._count - 1 - i
            d_carry, d_step = call(
                self._start + back,
                [k[back] for k in kept],
                frozen,
                [*d_carry, *(d[back] for d in d_columns)],
            )
            return i + 1, d_carry, [a + b for a, b in zip(d_frozen, d_step)]

        _, d_carry, d_frozen = self._loop(
            body,
            [d for d, is_float in zip(d_carry, floating) if is_float],
            [tf.zeros_like(t) for t in frozen],
        )
        of_floats = iter(d_carry)
        return (
            *(next(of_floats) if is_float else None for is_float in floating),
            *d_frozen,
        )

    def _flat_step(self, number, flat_carry, frozen):
        carry = tf.nest.pack_sequence_as(self._structure, flat_carry)
        carry, scalars = self._step(number, carry, frozen)
        flat = [tf.convert_to_tensor(t) for t in tf.nest.flatten(carry)]
        return [*flat, *scalars]

    def _derived_step(self, number, flat_carry, frozen, d_outputs):
        # Tensors of their own: one that comes twice among the arguments would
        # get its whole derivative each time.
        flat_carry = [tf.identity(t) for t in flat_carry]
        frozen = [tf.identity(t) for t in frozen]
        moving = [t for t in flat_carry if t.dtype.is_floating]
        sources = moving + frozen
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(sources)
            outputs = self._flat_step(number, flat_carry, frozen)
        gradients = dense_gradients(
            tape,
            [o for o in outputs if o.dtype.is_floating],
            sources,
            output_gradients=d_outputs,
        )
        return gradients[: len(moving)], gradients[len(moving) :]

    def _loop(self, body, *variables):
        return tf.while_loop(
            lambda i, *_: i < self._count,
            body,
            (tf.constant(0), *variables),
            parallel_iterations=1,
            maximum_iterations=self._count,
        )


# Out of line: TensorFlow's memory optimiser, which sees only what is inlined,
# breaks large sums in a loop ("tmp_var ... already exists").
_out_of_line = functools.partial(
    tf.function,
    autograph=False,
    experimental_attributes={"_noinline": True},
)


def _stacked_zeros(count, row):
    """Zeros: a row of the shape of `row` for each step."""
    shape = row.shape if row.shape.is_fully_defined() else tf.shape(row)
    zeros = tf.zeros(tf.concat([[count], shape], 0), row.dtype)
    return tf.ensure_shape(zeros, [count, *row.shape])


def _put(tensor, i, row):
    return tf.tensor_scatter_nd_update(
        tensor, tf.reshape(i, [1, 1]), row[tf.newaxis]
    )
