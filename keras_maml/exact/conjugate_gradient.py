"""Solves a linear system by products with its matrix."""

import tensorflow as tf


def conjugate_gradient(product, target, steps):
    """Solves `product(x) = target` in some steps, starting from 0.

    Args:
        product: function that multiplies a vector by a symmetric positive
            definite matrix. The vector is a structure of tensors.
        target: structure of tensors.
        steps: int. With one step for each unknown, the solution is exact.

    Returns:
        A structure like `target`.

    Reference:
        Hestenes and Stiefel, 1952, section 3.
    """
    solution = tf.nest.map_structure(tf.zeros_like, target)
    residual = direction = target
    square = dot(residual, residual)
    for _ in range(steps):
        image = product(direction)
        # At the solution, both numbers are 0.
        length = tf.math.divide_no_nan(square, dot(direction, image))
        solution = plus(solution, length, direction)
        residual = plus(residual, -length, image)
        new_square = dot(residual, residual)
        turn = tf.math.divide_no_nan(new_square, square)
        direction = plus(residual, turn, direction)
        square = new_square
    return solution


def dot(a, b):
    """Returns the inner product of two structures of tensors."""
    pairs = zip(tf.nest.flatten(a), tf.nest.flatten(b), strict=True)
    return tf.add_n([tf.reduce_sum(x * y) for x, y in pairs])


def plus(a, factor, b):
    """Returns `a + factor * b` for structures of tensors."""
    return tf.nest.map_structure(lambda x, y: x + factor * y, a, b)
