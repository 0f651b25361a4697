"""A loop of inner steps whose memory does not grow with their number."""

import tensorflow as tf

from keras_maml import keras_internals
from keras_maml import tensorflow_internals
from keras_maml.exact.gradients import dense_gradients


class RematerializedLoop:
    """A loop whose backward pass computes each step again.

    The forward pass keeps only the carry before each step. The backward pass
    computes a step again from this carry, and takes its gradient. It therefore
    needs the memory of one step. Both passes are loops over dense tensors,
    which XLA can compile and `tf.vectorized_map` can vectorize.

    Args:
        step: function `(number, carry, frozen)` that returns
            `(carry, scalars)`, where `scalars` is a list of scalar tensors.
            The backward pass calls `step` again, so random numbers must come
            from a seed in `carry`.
        start: int, the number of the first step.
        stop: int, the number after the last step.
        carry: structure of tensors that each step passes to the next step.
        frozen: list of tensors that the steps do not change. Only `carry` and
            `frozen` get gradients.
        scalar_dtypes: list with the dtype of each scalar.
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
            A tuple `(carry, columns)`: the carry after the last step, and for
            each scalar a tensor `(stop - start,)` with its values.
        """
        width = len(self._carry)

        @tensorflow_internals.custom_gradient
        def loop(*arguments):
            frozen = list(arguments[width:])
            carry, carries, columns = self._forward(arguments[:width], frozen)

            def gradient(*d_outputs, variables=None):
                # The gradients of embeddings are sparse.
                d_outputs = [tf.convert_to_tensor(d) for d in d_outputs]
                gradients = self._backward(
                    frozen, carries, d_outputs[:width], d_outputs[width:]
                )
                # The variables of frozen layers get no gradients.
                if variables:
                    return gradients, [None] * len(variables)
                return gradients

            return (*carry, *columns), gradient

        outputs = loop(*self._carry, *self._frozen)
        carry = tf.nest.pack_sequence_as(self._structure, outputs[:width])
        return carry, list(outputs[width:])

    def _forward(self, carry, frozen):
        """Returns the last carry, the carries before each step, the columns."""
        # TensorFlow's memory optimiser breaks large sums in a loop that it sees
        # inlined ("tmp_var ... already exists").
        flat_step = keras_internals.out_of_line(self._flat_step)
        width = len(self._carry)

        def body(i, carry, carries, columns):
            carries = [
                _set_row(stacked, i, tensor)
                for stacked, tensor in zip(carries, carry)
            ]
            outputs = flat_step(self._start + i, carry, frozen)
            columns = [
                _set_row(column, i, scalar)
                for column, scalar in zip(columns, outputs[width:])
            ]
            return i + 1, outputs[:width], carries, columns

        carry = list(carry)
        _, carry, carries, columns = self._loop(
            body,
            carry,
            [_stacked_zeros(self._count, t) for t in carry],
            [tf.zeros([self._count], dtype) for dtype in self._scalar_dtypes],
        )
        return carry, carries, columns

    def _backward(self, frozen, carries, d_carry, d_columns):
        """Returns the gradients for the first carry and for `frozen`."""
        step_gradients = keras_internals.out_of_line(self._step_gradients)
        floating = [t.dtype.is_floating for t in self._carry]

        def body(i, d_carry, d_frozen):
            # From the last step to the first.
            row = self._count - 1 - i
            d_carry, d_step = step_gradients(
                self._start + row,
                [stacked[row] for stacked in carries],
                frozen,
                [*d_carry, *(d_column[row] for d_column in d_columns)],
            )
            return i + 1, d_carry, [a + b for a, b in zip(d_frozen, d_step)]

        _, d_carry, d_frozen = self._loop(
            body,
            [d for d, is_float in zip(d_carry, floating) if is_float],
            [tf.zeros_like(t) for t in frozen],
        )
        float_gradients = iter(d_carry)
        return (
            *(
                next(float_gradients) if is_float else None
                for is_float in floating
            ),
            *d_frozen,
        )

    def _flat_step(self, number, flat_carry, frozen):
        carry = tf.nest.pack_sequence_as(self._structure, flat_carry)
        carry, scalars = self._step(number, carry, frozen)
        flat = [tf.convert_to_tensor(t) for t in tf.nest.flatten(carry)]
        return [*flat, *scalars]

    def _step_gradients(self, number, flat_carry, frozen, d_outputs):
        # Copies, because a tensor that is passed twice would get the sum of
        # both gradients each time.
        flat_carry = [tf.identity(t) for t in flat_carry]
        frozen = [tf.identity(t) for t in frozen]
        float_carry = [t for t in flat_carry if t.dtype.is_floating]
        sources = float_carry + frozen
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(sources)
            outputs = self._flat_step(number, flat_carry, frozen)
        gradients = dense_gradients(
            tape,
            [output for output in outputs if output.dtype.is_floating],
            sources,
            output_gradients=d_outputs,
        )
        return gradients[: len(float_carry)], gradients[len(float_carry) :]

    def _loop(self, body, *variables):
        return tf.while_loop(
            lambda i, *_: i < self._count,
            body,
            (tf.constant(0), *variables),
            parallel_iterations=1,
            maximum_iterations=self._count,
        )


def _stacked_zeros(count, row):
    """Returns zeros of the shape `(count, *row.shape)`."""
    shape = row.shape if row.shape.is_fully_defined() else tf.shape(row)
    zeros = tf.zeros(tf.concat([[count], shape], 0), row.dtype)
    return tf.ensure_shape(zeros, [count, *row.shape])


def _set_row(tensor, i, row):
    return tf.tensor_scatter_nd_update(
        tensor, tf.reshape(i, [1, 1]), row[tf.newaxis]
    )
