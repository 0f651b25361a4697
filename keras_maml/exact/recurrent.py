"""The loop of recurrent layers, in a form that can get a task axis."""

import inspect

import tensorflow as tf

from keras_maml.exact.scan import scan


def rnn(original, *args, **kwargs):
    """Keras's function `rnn` as a `scan`.

    Calls `original` for lengths that are unknown, and for unrolled loops.
    """
    bound = inspect.signature(original).bind(*args, **kwargs)
    bound.apply_defaults()
    settings = bound.arguments
    first_input = tf.nest.flatten(settings["inputs"])[0]
    length = first_input.shape[0 if settings["time_major"] else 1]
    is_unknown = not length or tf.is_tensor(settings.pop("input_length"))
    if settings.pop("unroll") or is_unknown:
        return original(*args, **kwargs)
    return _scanned(**settings)


def _scanned(
    step_function,
    inputs,
    initial_states,
    go_backwards,
    mask,
    constants,
    time_major,
    zero_output_for_mask,
    return_all_outputs,
):
    def in_order(tensor):
        tensor = tensor if time_major else _swapped(tensor)
        return tf.reverse(tensor, [0]) if go_backwards else tensor

    def call(states, row):
        """Returns the output and the new states, a structure and a list."""
        states = tf.nest.pack_sequence_as(list(initial_states), states)
        row = tf.nest.pack_sequence_as(inputs, row)
        output, states = step_function(row, (*states, *(constants or ())))
        return output, tf.nest.flatten(states)

    rows = [in_order(tensor) for tensor in tf.nest.flatten(inputs)]
    states = [tf.convert_to_tensor(t) for t in tf.nest.flatten(initial_states)]
    # Keras also takes one step to see what comes out.
    structure, _ = call(states, [row[0] for row in rows])
    if mask is None:
        states, outputs = scan(
            lambda carry, row: _flat(*call(carry, row)), states, rows
        )
    else:
        if mask.shape.rank == 2:
            mask = mask[..., tf.newaxis]
        zeros = [tf.zeros_like(t) for t in tf.nest.flatten(structure)]
        states, outputs = scan(
            _masked(call, len(states), zero_output_for_mask),
            [*states, *zeros],
            [*rows, in_order(tf.cast(mask, tf.bool))],
        )
        states = states[: -len(zeros)]
    last = [output[-1] for output in outputs]
    if not return_all_outputs:
        outputs = [output[-1:] for output in outputs]
    if not time_major:
        outputs = [_swapped(output) for output in outputs]
    return (
        tf.nest.pack_sequence_as(structure, last),
        tf.nest.pack_sequence_as(structure, outputs),
        tf.nest.pack_sequence_as(list(initial_states), states),
    )


def _masked(call, width, zero_output):
    """Returns a step that repeats states, and outputs, where a mask says so.

    Args:
        call: function of states and a row, lists of tensors.
        width: int, the number of states.
        zero_output: bool. Whether an output is 0 then, and not repeated.
    """

    def step(carry, row):
        *row, mask = row
        outputs, states = call(carry[:width], row)
        outputs = tf.nest.flatten(outputs)
        befores = carry[width:]
        if zero_output:
            befores = [tf.zeros_like(before) for before in befores]
        outputs = _where(mask, outputs, befores)
        return [*_where(mask, states, carry[:width]), *outputs], outputs

    return step


def _flat(output, states):
    return states, tf.nest.flatten(output)


def _where(mask, tensors, others):
    results = []
    for tensor, other in zip(tensors, others, strict=True):
        axes = [1] * (tensor.shape.rank - mask.shape.rank)
        shape = [-1, *mask.shape[1:], *axes]
        results.append(tf.where(tf.reshape(mask, shape), tensor, other))
    return results


def _swapped(tensor):
    """Returns a tensor with its first two axes swapped."""
    return tf.transpose(tensor, [1, 0, *range(2, tensor.shape.rank)])
