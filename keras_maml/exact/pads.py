"""`tf.pad` in a form that can get a task axis."""

import tensorflow as tf

from keras_maml.exact.gradients import custom_gradient


def pad(
    original, tensor, paddings, mode="CONSTANT", constant_values=0, name=None
):
    """`tf.pad` whose second derivative can get a task axis."""
    x = tf.convert_to_tensor(tensor)
    mode = mode.upper()
    sides = tf.get_static_value(tf.convert_to_tensor(paddings))
    if (
        sides is None
        or sides.shape != (x.shape.rank, 2)
        or sides.min(initial=0) < 0
        or not x.dtype.is_floating
    ):
        return original(x, paddings, mode, constant_values, name)
    if mode == "CONSTANT":

        @custom_gradient
        def extend(x):
            y = original(x, sides, mode, constant_values, name)
            return y, lambda d: _cut(original, d, sides)

        return extend(x)
    edge = {"REFLECT": 1, "SYMMETRIC": 0}.get(mode)
    if edge is None or any(
        max(widths) and (size is None or max(widths) > size - edge)
        for size, widths in zip(x.shape, sides.tolist())
    ):
        return original(x, sides, mode, constant_values, name)
    for axis, (before, after) in enumerate(sides.tolist()):
        if before or after:
            end = x.shape[axis] - edge
            parts = [
                _mirrored(original, x, axis, edge, edge + before),
                x,
                _mirrored(original, x, axis, end - after, end),
            ]
            x = tf.concat(parts, axis)
    return x


def _mirrored(pad, x, axis, start, stop):
    """Returns a part of a tensor, backwards."""
    sides = [[0, 0]] * x.shape.rank
    sides[axis] = [start, x.shape[axis] - stop]
    return tf.reverse(_cut(pad, x, sides), [axis])


def _cut(pad, x, sides):
    """Takes away what `tf.pad` would put at the sides."""
    inner = tuple(slice(int(a), -int(b) if b else None) for a, b in sides)

    @custom_gradient
    def cut(x):
        return x[inner], lambda d: extend(d)

    @custom_gradient
    def extend(x):
        return pad(x, sides), lambda d: cut(d)

    return cut(x)
