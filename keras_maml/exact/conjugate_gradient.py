"""Solving a linear system by products with its matrix alone."""

import tensorflow as tf


def conjugate_gradient(product, target, steps):
    """Solves `product(x) = target`, from 0, in some steps.

    Args:
        product: function from a list of tensors to the product of a symmetric
            positive definite matrix with it.
        target: list of tensors.
        steps: int. As many as there are unknowns give the exact solution.

    Returns:
        A list of tensors.

    Reference:
        Hestenes and Stiefel, 1952, section 3.
    """
    solution = [tf.zeros_like(t) for t in target]
    residual = direction = target
    square = dot(residual, residual)
    for _ in range(steps):
        image = product(direction)
        # At the solution all of these are 0.
        length = tf.math.divide_no_nan(square, dot(direction, image))
        solution = [x + length * d for x, d in zip(solution, direction)]
        residual = [r - length * i for r, i in zip(residual, image)]
        new_square = dot(residual, residual)
        turn = tf.math.divide_no_nan(new_square, square)
        direction = [r + turn * d for r, d in zip(residual, direction)]
        square = new_square
    return solution


def dot(a, b):
    """The inner product of two lists of tensors."""
    return tf.add_n([tf.reduce_sum(x * y) for x, y in zip(a, b)])
