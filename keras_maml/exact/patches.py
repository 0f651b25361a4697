"""The patches of images as slices, and the sum of patches as their transpose.

Slices, unlike TensorFlow's kernels for convolutions, can get a task axis, and
XLA merges them with what follows.
"""

from typing import NamedTuple

import tensorflow as tf

from keras_maml.exact import built_in
from keras_maml.exact import gathered_patches
from keras_maml.exact.gradients import custom_gradient


class Window(NamedTuple):
    """How a window moves over images of one, two or three dimensions.

    Attributes:
        size: tuple of ints, the places of the window along each dimension.
        strides: tuple of ints.
        dilations: tuple of ints, the distance of two places of the window.
        padding: `"SAME"` or `"VALID"`.
    """

    size: tuple
    strides: tuple
    dilations: tuple
    padding: str

    def along(self, image):
        """Returns an `_Axis` for each dimension of `image`, a tuple of ints."""
        return [
            _axis(length, size, stride, dilation, self.padding)
            for length, size, stride, dilation in zip(
                image, self.size, self.strides, self.dilations, strict=True
            )
        ]


class _Axis(NamedTuple):
    """How a window moves along one dimension of an image.

    Attributes:
        length: int, the elements of the image.
        padding: tuple of two ints, the zeros before and after.
        starts: range, the first element that each place of the window sees.
        stride: int.
        stops: int, the number of places where the window stands.
    """

    length: int
    padding: tuple
    starts: range
    stride: int
    stops: int


def patches(x, window):
    """Returns what the window sees wherever it stands.

    Args:
        x: tensor `(N, *spatial, C)`. All dimensions but N are known.
        window: a `Window`.

    Returns:
        A tensor `(N, *places, prod(window.size) * C)`. The elements of a patch
        have the order of the elements of a kernel `(*window.size, C, F)`.
    """
    return _linear_maps(window, x.shape[1:-1])[0](x)


def fold(y, window, image):
    """The transpose of `patches`: adds each patch to the image it is from.

    Args:
        y: tensor `(N, *places, prod(window.size) * C)`.
        window: a `Window`.
        image: tuple of ints, the spatial dimensions of an image.

    Returns:
        A tensor `(N, *image, C)`.
    """
    return _linear_maps(window, image)[1](y)


def _linear_maps(window, image):
    """Returns `patches` and `fold`, each the derivative of the other."""
    if built_in.is_required():
        return gathered_patches.linear_maps(window, image)
    axes = list(enumerate(window.along(image), start=1))

    @custom_gradient
    def see(x):
        # The last dimension first: the first one is then the slowest one in a
        # patch.
        for number, axis in reversed(axes):
            x = _see_along(x, number, axis)
        return x, lambda d: add(d)

    @custom_gradient
    def add(y):
        for number, axis in axes:
            y = _add_along(y, number, axis)
        return y, lambda d: see(d)

    return see, add


def _see_along(x, number, axis):
    """Puts what the places of the window see side by side, in the last axis."""
    if any(axis.padding):
        paddings = [[0, 0]] * x.shape.rank
        paddings[number] = axis.padding
        x = tf.pad(x, paddings)
    if axis.stops == x.shape[number] and len(axis.starts) == 1:
        return x
    places = [slice(None)] * number
    return tf.concat(
        [x[(*places, _seen(axis, start))] for start in axis.starts], -1
    )


def _add_along(y, number, axis):
    """The transpose of `_see_along`."""
    padded = sum(axis.padding) + axis.length
    if axis.stops == padded and len(axis.starts) == 1:
        z = y
    else:
        parts = tf.split(y, len(axis.starts), -1)
        shape = tf.unstack(tf.shape(parts[0]))
        shape[number] = padded
        z = tf.add_n(
            [
                _placed(part, number, axis, start, shape)
                for part, start in zip(parts, axis.starts)
            ]
        )
    if any(axis.padding):
        first = axis.padding[0]
        places = [slice(None)] * number
        z = z[(*places, slice(first, first + axis.length))]
    return z


def _placed(part, number, axis, start, shape):
    """Returns zeros, but for what one place of the window has seen."""
    seen = _seen(axis, start)
    rank = part.shape.rank
    others = sum(2**i for i in range(rank) if i != number)
    one_hot = [i == number for i in range(rank)]
    return tf.raw_ops.StridedSliceGrad(
        shape=shape,
        begin=[seen.start if here else 0 for here in one_hot],
        end=[seen.stop if here else 0 for here in one_hot],
        strides=[seen.step if here else 1 for here in one_hot],
        dy=part,
        begin_mask=others,
        end_mask=others,
    )


def _seen(axis, start):
    """Returns the elements that one place of the window sees, a slice."""
    stop = start + (axis.stops - 1) * axis.stride + 1
    return slice(start, max(stop, start), axis.stride)


def _axis(length, size, stride, dilation, padding):
    span = (size - 1) * dilation + 1
    starts = range(0, span, dilation)
    if padding == "VALID":
        count = max(0, (length - span) // stride + 1)
        return _Axis(length, (0, 0), starts, stride, count)
    count = -(-length // stride)
    missing = max((count - 1) * stride + span - length, 0)
    # TensorFlow adds an odd element of padding at the end.
    before = missing // 2
    return _Axis(length, (before, missing - before), starts, stride, count)
