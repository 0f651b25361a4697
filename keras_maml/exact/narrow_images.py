"""Strided convolutions of bfloat16 images that are narrower than the stride.

TensorFlow's kernel for the gradient of such a filter does not write all of its
result on CPUs (2.20 and 2.21, oneDNN): it returns what was in the memory
before, which may be NaN. In float32 the same kernel is right.
"""

import functools
import inspect

import tensorflow as tf


def in_float32(convolve):
    """Returns `convolve` with float32 inside for such images.

    Args:
        convolve: `tf.nn.convolution`, `tf.nn.depthwise_conv2d` or
            `tf.nn.separable_conv2d`.
    """
    signature = inspect.signature(convolve)

    @functools.wraps(convolve)
    def safely(*args, **kwargs):
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        values = bound.arguments
        x = tf.convert_to_tensor(values["input"])
        if x.dtype != tf.bfloat16 or not _may_be_narrow(x, values):
            return convolve(*args, **kwargs)
        for name in values:
            if name == "input" or "filter" in name:
                values[name] = tf.cast(values[name], tf.float32)
        return tf.cast(convolve(*bound.args, **bound.kwargs), x.dtype)

    return safely


def _may_be_narrow(x, values):
    """Returns whether a side of the images may be smaller than a stride."""
    stride = max(tf.nest.flatten(values["strides"] or 1))
    if stride == 1 or values["padding"] == "VALID":
        return False
    channels_first = str(values["data_format"]).startswith("NC")
    sides = x.shape[2:] if channels_first else x.shape[1:-1]
    return sides.rank is None or any(n is None or n < stride for n in sides)
