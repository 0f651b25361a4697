"""MAML by nested tapes over hand-written networks: the tests' second opinion.

Nothing here is the library's or Keras's: a network is a function of a list of
weights, and the derivatives are TensorFlow's.
"""

import numpy as np
import tensorflow as tf


def exact_batch_norm(x, gamma, beta, epsilon=1e-3):
    axes = list(range(x.shape.rank - 1))
    mean = tf.reduce_mean(x, axes)
    variance = tf.reduce_mean((x - mean) ** 2, axes)
    return (x - mean) / tf.sqrt(variance + epsilon) * gamma + beta


def dense_net(weights, x):
    """Dense, batch norm, softplus, dense."""
    k1, b1, gamma, beta, k2, b2 = weights
    h = exact_batch_norm(x @ k1 + b1, gamma, beta)
    return tf.math.softplus(h) @ k2 + b2


def conv_net(weights, x):
    """Two strided convolutions, each with batch norm and ReLU; mean; dense."""
    for k, b, gamma, beta in (weights[0:4], weights[4:8]):
        x = tf.nn.conv2d(x, k, 2, "SAME") + b
        x = tf.nn.relu(exact_batch_norm(x, gamma, beta))
    return tf.reduce_mean(x, [1, 2]) @ weights[8] + weights[9]


def mean_squared_error(y, outputs):
    return tf.reduce_mean((y - outputs) ** 2)


def cross_entropy(y, outputs):
    return tf.reduce_mean(
        tf.nn.sparse_softmax_cross_entropy_with_logits(y, outputs)
    )


def meta_gradient(net, loss, weights, x, y, rate, steps, second_order):
    """Mean over tasks of the query loss after adaptation, and its gradient."""
    tasks = len(y)
    total_loss = 0.0
    total = [np.zeros(w.shape) for w in weights]
    for t in range(tasks):
        with tf.GradientTape() as outer:
            outer.watch(weights)
            fast = list(weights)
            for _ in range(steps):
                with tf.GradientTape() as inner:
                    inner.watch(fast)
                    support_loss = loss(
                        x["support_y"][t], net(fast, x["support_x"][t])
                    )
                gradients = inner.gradient(support_loss, fast)
                if not second_order:
                    gradients = [tf.stop_gradient(g) for g in gradients]
                fast = [w - rate * g for w, g in zip(fast, gradients)]
            query_loss = loss(y[t], net(fast, x["query_x"][t]))
        gradients = outer.gradient(query_loss, weights)
        total = [a + g.numpy() for a, g in zip(total, gradients)]
        total_loss += float(query_loss)
    return total_loss / tasks, [g / tasks for g in total]


def relative_error(actual, expected):
    """Of the whole gradient: parts of it are 0 in exact arithmetic."""
    actual = np.concatenate([np.ravel(a) for a in actual]).astype("float64")
    expected = np.concatenate([np.ravel(e) for e in expected]).astype("float64")
    return np.linalg.norm(actual - expected) / np.linalg.norm(expected)


def assert_derivative(meta_model, x, y, rel=1e-6, epsilon=1e-6, last=None):
    """The gradient that `train_step` would apply, against differences.

    In float64, along two random directions: (L(θ + εd) − L(θ − εd)) / 2ε; of
    all of θ, or of its `last` variables alone.
    """

    @tf.function(autograph=False)
    def step():
        mean = meta_model._step((x, y), training=True)[0].mean
        return mean["loss"], tf.nest.flatten(mean["gradients"])

    _, gradients = step()
    variables = tf.nest.flatten(meta_model.meta_state.variables())
    start = [v.numpy() for v in variables]
    rng = np.random.default_rng(0)
    for _ in range(2):
        direction = [rng.standard_normal(v.shape) for v in start]
        for i in range(len(start) - (last or len(start))):
            direction[i][...] = 0.0
        losses = []
        for sign in (1, -1):
            for v, s, d in zip(variables, start, direction):
                v.assign(s + sign * epsilon * d)
            losses.append(float(step()[0]))
        for v, s in zip(variables, start):
            v.assign(s)
        difference = (losses[0] - losses[1]) / (2 * epsilon)
        derivative = sum(
            float(np.sum(g.numpy() * d)) for g, d in zip(gradients, direction)
        )
        np.testing.assert_allclose(derivative, difference, rtol=rel)
