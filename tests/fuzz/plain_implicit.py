"""The gradient of implicit MAML, by the whole matrix of derivatives."""

import numpy as np
import tensorflow as tf


def implicit_gradient(task):
    """(I + H/λ)⁻¹ by conjugate gradients with the whole matrix H."""
    weights = [tf.identity(w) for w in task.weights]
    others = [i for i in range(len(weights)) if i not in task.positions]
    state = dict(task.state)
    with tf.GradientTape() as tape:
        tape.watch(weights)
        task.weights = list(weights)
        loss = task.query_loss(task.steps)[0]
    query = [
        tf.zeros_like(w) if g is None else dense(g)
        for g, w in zip(tape.gradient(loss, weights), weights)
    ]
    moving = [weights[i] for i in task.positions]
    with tf.GradientTape(persistent=True) as outer:
        outer.watch(weights)
        with tf.GradientTape() as inner:
            inner.watch(moving)
            task.weights = list(weights)
            loss = task.support_loss(task.steps, whole=True)[0]
        flat = tf.concat(
            [
                tf.reshape(tf.zeros_like(w) if g is None else dense(g), [-1])
                for g, w in zip(inner.gradient(loss, moving), moving)
            ],
            0,
        )
    task.state = state

    def jacobian(sources):
        parts = outer.jacobian(flat, sources, experimental_use_pfor=False)
        return np.concatenate(
            [
                np.zeros((len(flat), int(tf.size(s))))
                if p is None
                else p.numpy().reshape(len(flat), -1)
                for p, s in zip(parts, sources)
            ],
            1,
        )

    lam = task.settings.proximal
    matrix = np.eye(len(flat)) + jacobian(moving) / lam
    target = np.concatenate(
        [np.ravel(query[i]) for i in task.positions]
    ).astype("float64")
    solution = _conjugate_gradient(matrix, target, task.settings.cg_steps)
    gradients = [g.numpy() for g in query]
    _fill(gradients, task.positions, solution)
    if others:
        mixed = jacobian([weights[i] for i in others]).T @ solution / lam
        rest = np.concatenate([np.ravel(query[i]) for i in others]) - mixed
        _fill(gradients, others, rest)
    return [tf.constant(g) for g in gradients]


def _conjugate_gradient(matrix, target, steps):
    x = np.zeros_like(target)
    r = p = target
    for _ in range(steps):
        if not r @ r:
            break
        a = (r @ r) / (p @ matrix @ p)
        x, new = x + a * p, r - a * (matrix @ p)
        p = new + (new @ new) / (r @ r) * p
        r = new
    return x


def _fill(arrays, positions, flat):
    start = 0
    for i in positions:
        size = arrays[i].size
        arrays[i] = flat[start : start + size].reshape(arrays[i].shape)
        start += size


def dense(gradient):
    """Returns a gradient as a tensor, or `None`."""
    if isinstance(gradient, tf.IndexedSlices):
        return tf.convert_to_tensor(gradient)
    return gradient
