"""Batch normalisation as one operation, with derivatives in closed form.

Automatic differentiation of the formula needs dozens of passes over the
activations for a second derivative. TensorFlow has fast kernels for batch
normalisation and its first derivative, but no exact second derivative. This
module uses the kernels, and computes the second derivative by its formula.
"""

import math

import tensorflow as tf

from keras_maml import devices
from keras_maml.exact import built_in
from keras_maml.exact import task_axis
from keras_maml.exact.constants import constant
from keras_maml.exact.constants import filled
from keras_maml.exact.gradients import custom_gradient


def batch_normalization(x, gamma, beta, epsilon):
    """Normalises over all axes but the last.

    The result and the statistics have exact derivatives of any order.

    Args:
        x: float tensor `(..., C)`.
        gamma: tensor `(C,)`, or `None` for 1.
        beta: tensor `(C,)`, or `None` for 0.
        epsilon: float, added to the variance.

    Returns:
        A tuple `(y, mean, variance)`. The statistics have the shape `(C,)`.
        The variance is biased: the divisor is the number of elements.

    Reference:
        Ioffe and Szegedy, 2015, Algorithm 1. The derivatives below use m for
        the mean over the elements of a channel, r = (variance + ε)^(−1/2),
        x̂ = (x − mean) r and the projection P(v) = v − m(v) − x̂ m(v x̂).

        - The gradient is dx = γ r P(dy), dγ = Σ dy x̂, dβ = Σ dy.
        - The gradient of this gradient, for the cotangents (u, a, b) of
          (dx, dγ, dβ), is
          dy ← γ r P(u) + a x̂ + b, γ ← r Σ u P(dy), and
          x ← a r P(dy) − γ r² (m(u P(dy)) x̂ + m(dy x̂) P(u) + m(u x̂) P(dy)).
    """
    channels = x.shape[-1]
    if gamma is None:
        gamma = tf.ones([channels], x.dtype)
    if beta is None:
        beta = tf.zeros([channels], x.dtype)
    if x.shape.rank in (2, 4):
        return _normalize(x, gamma, beta, epsilon)
    # The code below takes only ranks 2 and 4.
    shape = tf.shape(x)
    image = tf.reshape(x, [-1, 1, shape[-2], channels])
    y, mean, variance = _normalize(image, gamma, beta, epsilon)
    return tf.ensure_shape(tf.reshape(y, shape), x.shape), mean, variance


def _normalize(x, gamma, beta, epsilon):
    # A derivative gets all its tensors as arguments, because a closure would
    # share the tensors of the first call with all calls.
    @custom_gradient
    def normalized(x, gamma, beta, y, mean, variance, *saved):
        def gradient(dy):
            gradients = backward(x, gamma, dy, mean, variance, *saved)
            return *gradients, *_no_gradients(y, mean, variance, *saved)

        return y, gradient

    def backward(x, gamma, dy, *statistics):
        # What this call returns, so that a second derivative computes it no
        # second time, and a third derivative goes through it.
        results = []

        @custom_gradient
        def compute(x, gamma, dy, mean, variance, *saved):
            def gradient(u, a, b):
                _, dy_x, dy_sum = results
                statistics = (mean, variance, *saved)
                projected, u_x, u_sum = backward(x, gamma, u, *statistics)
                count = _count(x)
                r = tf.math.rsqrt(variance + constant(epsilon, x.dtype))
                # The sum of u P(dy), with few operations, as all of this.
                uy = channel_sum(u * dy) - (u_sum * dy_sum + u_x * dy_x) / count
                g, a_r = gamma * r * r / count, a * r
                factor_u, g_u = g * dy_x, g * u_x
                factor_dy = a_r - g_u
                factor_x = r * (dy_x / count * (g_u - factor_dy) - g * uy)
                constant_x = (factor_u * u_sum - factor_dy * dy_sum) / count
                return (
                    factor_dy * dy
                    - factor_u * u
                    + _affine(x, mean, factor_x, constant_x),
                    r * uy,
                    projected + _affine(x, mean, a_r, b),
                    *_no_gradients(*statistics),
                )

            return _backward_kernel(
                x, gamma, dy, mean, variance, saved, epsilon
            ), gradient

        results.extend(compute(x, gamma, dy, *statistics))
        return tuple(results)

    y, mean, variance, saved = _forward_kernel(x, gamma, beta, epsilon)
    mean, variance = _statistics(x, mean, variance)
    y = normalized(x, gamma, beta, y, mean, variance, *saved)
    return y, mean, variance


def channel_sum(x):
    """Returns the sum over all axes but the last.

    For a large tensor on a CPU, a matrix product with ones is several times as
    fast as `tf.reduce_sum`. On a GPU, the product could round its inputs
    (TensorFloat-32). With a task axis, XLA merges the sum with what it sums.
    """
    if (
        x.shape.rank == 2
        or devices.accelerators()
        or task_axis.is_vectorized()
        or built_in.is_required()
    ):
        return tf.reduce_sum(x, _axes(x))
    channels = x.shape[-1]
    flat = tf.reshape(x, constant((-1, channels), tf.int32))
    rows = flat.shape[0]
    if rows is None:
        ones = tf.ones([1, tf.shape(flat)[0]], x.dtype)
    else:
        ones = filled(1.0, (1, rows), x.dtype)
    return tf.squeeze(tf.matmul(ones, flat), 0)


@custom_gradient
def _affine(x, mean, scale, offset):
    """Computes `(x - mean) * scale + offset` in one pass."""

    def gradient(d_y):
        total = channel_sum(d_y)
        d_scale = channel_sum(d_y * (x - mean))
        return d_y * scale, -total * scale, d_scale, total

    # With a variance of `1 - epsilon`, the kernel divides by 1.
    epsilon = 1e-3
    if not _has_kernels(x, epsilon):
        return (x - mean) * scale + offset, gradient
    output = tf.raw_ops.FusedBatchNormV3(
        x=x,
        scale=scale,
        offset=offset,
        mean=mean,
        variance=filled(1.0 - epsilon, (x.shape[-1],), x.dtype),
        epsilon=epsilon,
        is_training=False,
    )
    return output.y, gradient


@custom_gradient
def _statistics(x, mean, variance):
    """Returns `mean` and `variance`, differentiable with respect to `x`."""

    def gradient(d_mean, d_variance):
        centered = x - _statistics(x, mean, variance)[0]
        d_x = (d_mean + 2.0 * d_variance * centered) / _count(x)
        return d_x, *_no_gradients(mean, variance)

    return (mean, variance), gradient


def _no_gradients(*tensors):
    return (None,) * len(tensors)


def _axes(x):
    return list(range(x.shape.rank - 1))


def _count(x):
    """Returns the number of elements of a channel."""
    if x.shape.is_fully_defined():
        return constant(float(math.prod(x.shape[:-1])), x.dtype)
    return tf.cast(tf.size(x), x.dtype) / x.shape[-1]


def _forward_kernel(x, gamma, beta, epsilon):
    """Returns `y`, mean, variance, and inputs of the backward kernel."""
    if not _has_kernels(x, epsilon):
        mean = tf.reduce_mean(x, _axes(x))
        variance = tf.reduce_mean(tf.math.squared_difference(x, mean), _axes(x))
        r = tf.math.rsqrt(variance + epsilon)
        return (x - mean) * (gamma * r) + beta, mean, variance, ()
    output = tf.raw_ops.FusedBatchNormV3(
        x=x,
        scale=gamma,
        offset=beta,
        mean=constant((), x.dtype),
        variance=constant((), x.dtype),
        epsilon=epsilon,
        is_training=True,
    )
    # The kernel returns the unbiased variance.
    count = _count(x)
    variance = output.batch_variance - output.batch_variance / count
    return output.y, output.batch_mean, variance, output[3:]


def _backward_kernel(x, gamma, dy, mean, variance, saved, epsilon):
    if not _has_kernels(x, epsilon):
        r = tf.math.rsqrt(variance + epsilon)
        x_hat = (x - mean) * r
        m_dy = tf.reduce_mean(dy, _axes(x))
        m_dy_x = tf.reduce_mean(dy * x_hat, _axes(x))
        dx = gamma * r * (dy - m_dy - x_hat * m_dy_x)
        return dx, m_dy_x * _count(x), m_dy * _count(x)
    output = tf.raw_ops.FusedBatchNormGradV3(
        y_backprop=dy,
        x=x,
        scale=gamma,
        reserve_space_1=saved[0],
        reserve_space_2=saved[1],
        reserve_space_3=saved[2],
        epsilon=epsilon,
        is_training=True,
    )
    return tuple(output[:3])


def _has_kernels(x, epsilon):
    # TensorFlow cannot vectorize the kernels over tasks with different gammas,
    # so vectors use the formula.
    is_image = x.shape.rank == 4 and x.dtype == tf.float32
    if task_axis.is_vectorized() or built_in.is_required():
        return False
    # cuDNN would use this epsilon in the place of a smaller one.
    return is_image and epsilon >= 1.001e-5
