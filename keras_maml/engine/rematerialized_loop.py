"""A loop of inner steps whose memory does not grow with their number."""

import tensorflow as tf

from keras_maml import keras_internals
from keras_maml import tensorflow_internals
from keras_maml.engine.packing import Packing
from keras_maml.exact.gradients import dense


class RematerializedLoop:
    """A loop whose backward pass computes each step again.

    The forward pass keeps only the carry before each step. The backward pass
    computes a step again from this carry, and takes its gradient. It therefore
    needs the memory of one step. Both passes are loops over dense tensors,
    which XLA can compile and `tf.vectorized_map` can vectorize.

    Args:
        step: a `TracedStep`. The backward pass takes it again, so random
            numbers must come from a seed in the carry.
        start: int, the number of the first step.
        stop: int, the number after the last step.
    """

    def __init__(self, step, start, stop):
        self._step = step
        self._start = start
        self._count = stop - start

    def run(self, carry, frozen):
        """Takes the steps.

        Args:
            carry: as in `TracedStep`, before the first step.
            frozen: as in `TracedStep`.

        Returns:
            A tuple `(carry, columns)`: the carry after the last step, and for
            each scalar a tensor `(stop - start,)` with its values.
        """
        step = self._step
        width = len(step.changed)

        @tensorflow_internals.custom_gradient
        def loop(*inputs):
            changed, rows, columns = self._forward(inputs)

            def gradient(*d_outputs):
                # The gradients of embeddings are sparse.
                d_outputs = [tf.convert_to_tensor(d) for d in d_outputs]
                return self._backward(
                    inputs, rows, d_outputs[:width], d_outputs[width:]
                )

            return [*changed, *columns], gradient

        inputs = step.inputs(carry, frozen)
        results = loop(*inputs)
        for i, tensor in zip(step.changed, results):
            inputs[i] = tensor
        return step.pack(inputs)[0], results[width:]

    def _forward(self, inputs):
        """Takes the steps.

        Returns:
            What the steps change, after the last of them, the same before each
            of them, packed and stacked, and the columns.
        """
        step = self._step
        packing = Packing([inputs[i] for i in step.changed])

        @keras_internals.out_of_line
        def take(number, inputs):
            return step.forward(number, inputs)[0]

        def body(i, carry, rows, columns):
            rows = [_set_row(stacked, i, t) for stacked, t in zip(rows, carry)]
            now = _replaced(inputs, step.changed, packing.unpack(carry))
            outputs = take(self._start + i, now)
            carry, scalars = step.pack(outputs)
            carry = tf.nest.flatten(carry)
            columns = [
                _set_row(column, i, scalar)
                for column, scalar in zip(columns, scalars)
            ]
            carry = packing.pack([carry[i] for i in step.changed])
            return i + 1, carry, rows, columns

        carry = packing.pack([inputs[i] for i in step.changed])
        _, carry, rows, columns = self._loop(
            body,
            carry,
            [_stacked_zeros(self._count, tensor) for tensor in carry],
            [tf.zeros([self._count], dtype) for dtype in step.scalar_dtypes],
        )
        return packing.unpack(carry), rows, columns

    def _backward(self, inputs, rows, d_changed, d_columns):
        """Returns the gradient or `None` for each of `inputs`."""
        # TensorFlow may derive a loop that no tape has watched.
        step = self._step.derived(inputs)
        d_changed = dict(zip(step.changed, d_changed))
        # The rest of the sources are the same in all steps.
        carried = [i for i in step.sources if i in d_changed]
        fixed = [i for i in step.sources if i not in d_changed]
        packing = Packing([inputs[i] for i in step.changed])
        d_packing = Packing([inputs[i] for i in carried])

        @keras_internals.out_of_line
        def derive(number, inputs, d_targets):
            _, saved = step.forward(number, inputs)
            return step.backward(saved, d_targets)

        def body(i, d_carried, d_fixed):
            # From the last step to the first.
            row = self._count - 1 - i
            carry = packing.unpack([stacked[row] for stacked in rows])
            now = _replaced(inputs, step.changed, carry)
            d_outputs = dict(zip(carried, d_packing.unpack(d_carried)))
            for k, d_column in enumerate(d_columns):
                d_outputs[step.width + k] = d_column[row]
            gradients = derive(
                self._start + row, now, [d_outputs[k] for k in step.targets]
            )
            gradients = dict(zip(step.sources, gradients))
            return (
                i + 1,
                d_packing.pack(
                    [dense(gradients[i], inputs[i]) for i in carried]
                ),
                [
                    total if gradients[i] is None else total + gradients[i]
                    for i, total in zip(fixed, d_fixed)
                ],
            )

        _, d_carried, d_fixed = self._loop(
            body,
            d_packing.pack([d_changed[i] for i in carried]),
            [tf.zeros_like(inputs[i]) for i in fixed],
        )
        d_carried = d_packing.unpack(d_carried)
        gradients = dict(zip([*carried, *fixed], [*d_carried, *d_fixed]))
        return [gradients.get(i) for i in range(len(inputs))]

    def _loop(self, body, *variables):
        return tf.while_loop(
            lambda i, *_: i < self._count,
            body,
            (tf.constant(0), *variables),
            parallel_iterations=1,
            maximum_iterations=self._count,
        )


def _replaced(tensors, positions, values):
    """Returns a list of `tensors`, with others at some positions."""
    tensors = list(tensors)
    for i, value in zip(positions, values):
        tensors[i] = value
    return tensors


def _stacked_zeros(count, row):
    """Returns zeros of the shape `(count, *row.shape)`."""
    shape = row.shape if row.shape.is_fully_defined() else tf.shape(row)
    zeros = tf.zeros(tf.concat([[count], shape], 0), row.dtype)
    return tf.ensure_shape(zeros, [count, *row.shape])


def _set_row(tensor, i, row):
    return tf.tensor_scatter_nd_update(
        tensor, tf.reshape(i, [1, 1]), row[tf.newaxis]
    )
