"""Derivatives of the surrogates, against a problem whose truth is known.

All trajectories of a small Markov decision process stand in a batch, with
their probabilities as factors of their advantages, so that nothing is left to
chance.
"""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_maml import rl
from keras_maml.rl.meta_objective import MetaObjective
from keras_maml.rl.surrogates import SURROGATES
from keras_maml.theta import Theta

RNG = np.random.default_rng(0)
STATES, ACTIONS = 2, 2


class Problem:
    """A process of `horizon` steps, begun in state 0, with returns by hand."""

    def __init__(self, horizon):
        self.horizon = horizon
        p = RNG.random((STATES, ACTIONS, STATES))
        self.transitions = p / p.sum(-1, keepdims=True)
        self.rewards = RNG.normal(size=(STATES, ACTIONS))
        # A baseline that is no good must change nothing.
        self.baseline = RNG.normal(size=STATES)

    def expected_return(self, logits):
        """J(θ), by going forward through the probabilities of states."""
        policy = tf.nn.softmax(logits)
        state = tf.constant([1.0] + [0.0] * (STATES - 1), tf.float64)
        total = tf.constant(0.0, tf.float64)
        for _ in range(self.horizon):
            joint = state[:, None] * policy
            total += tf.reduce_sum(joint * self.rewards)
            state = tf.einsum("sa,sat->t", joint, self.transitions)
        return total

    def trajectories(self, logits):
        """Every trajectory with its probability at these logits."""
        policy = tf.nn.softmax(logits).numpy()
        states, actions, weights = [], [], []
        for path in itertools.product(
            range(STATES), range(ACTIONS), repeat=self.horizon
        ):
            s, a = path[::2], path[1::2]
            if s[0] != 0:
                continue
            weight = np.prod([policy[i, j] for i, j in zip(s, a)])
            for t in range(self.horizon - 1):
                weight *= self.transitions[s[t], a[t], s[t + 1]]
            states.append(s)
            actions.append(a)
            weights.append(weight)
        states, actions = np.array(states), np.array(actions)
        rewards = self.rewards[states, actions]
        to_go = np.cumsum(rewards[:, ::-1], 1)[:, ::-1]
        weights = len(weights) * np.array(weights)[:, None]
        return states, actions, weights * (to_go - self.baseline[states])


def log_policy(logits, states, actions):
    table = tf.nn.log_softmax(logits)
    return tf.gather_nd(table, np.stack([states, actions], -1))


def derivatives(function, at):
    with tf.GradientTape() as outer:
        outer.watch(at)
        with tf.GradientTape() as inner:
            inner.watch(at)
            value = function(at)
        gradient = inner.gradient(value, at)
    return gradient.numpy(), outer.jacobian(gradient, at).numpy()


@pytest.mark.parametrize(
    ("surrogate", "horizon", "exact"),
    [
        ("dice", 1, True),
        ("dice", 3, True),
        ("lvc", 1, True),
        ("lvc", 3, False),
        ("score_function", 1, False),
    ],
)
def test_derivatives(surrogate, horizon, exact):
    problem = Problem(horizon)
    logits = tf.constant(RNG.normal(size=(STATES, ACTIONS)))
    states, actions, advantages = problem.trajectories(logits)
    old = log_policy(logits, states, actions)

    def loss(logits):
        return horizon * SURROGATES[surrogate](
            log_policy(logits, states, actions),
            old,
            tf.constant(advantages),
            tf.ones_like(old),
        )

    gradient, hessian = derivatives(loss, logits)
    true_gradient, true_hessian = derivatives(problem.expected_return, logits)
    np.testing.assert_allclose(-gradient, true_gradient, rtol=1e-9, atol=1e-12)
    error = np.max(np.abs(hessian + true_hessian))
    assert (error < 1e-10) == exact, error


def test_steps_after_the_end_do_not_count():
    log_probs, advantages = tf.constant(RNG.normal(size=(2, 3, 4)))
    valid = tf.constant([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]], tf.float64)
    for surrogate in SURROGATES.values():
        value = surrogate(log_probs, 0.5 * log_probs, advantages * valid, valid)
        changed = surrogate(
            log_probs + (1 - valid),
            0.5 * log_probs,
            advantages * valid,
            valid,
        )
        assert float(value) == pytest.approx(float(changed), rel=1e-12)


def test_a_loss_is_the_mean_over_the_steps_that_were_taken():
    log_probs, advantages = tf.constant(RNG.normal(size=(2, 2, 3)))
    valid = tf.constant([[1, 1, 1], [1, 0, 0]], tf.float64)
    loss = SURROGATES["score_function"](log_probs, log_probs, advantages, valid)
    expected = -np.sum(log_probs * advantages * valid) / 4
    assert float(loss) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("surrogate", SURROGATES)
def test_ratios_after_the_end_do_not_overflow(surrogate):
    valid = tf.constant([[1, 1, 0], [1, 0, 0]], tf.float64)
    log_probs = 1e4 * (1 - valid)
    with tf.GradientTape() as tape:
        tape.watch(log_probs)
        loss = SURROGATES[surrogate](
            log_probs, tf.zeros_like(valid), valid, valid
        )
    gradient = tape.gradient(loss, log_probs)
    assert np.isfinite(gradient).all()
    assert np.all((gradient != 0) == (valid == 1))


def test_meta_gradient_is_that_of_the_expected_return():
    """∇_θ J(θ + α/H ∇J(θ)), through the library's own inner loop."""
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    horizon, rate = 2, 0.7
    problem = Problem(horizon)
    environment = rl.TabularMDP(STATES, ACTIONS, horizon)
    policy = keras.Sequential(
        [
            keras.Input((STATES,)),
            keras.layers.Dense(ACTIONS, use_bias=False),
        ]
    )
    logits = tf.constant(RNG.normal(size=(STATES, ACTIONS)))
    policy.set_weights([logits.numpy()])
    meta_policy = rl.MetaPolicySearch(
        policy, environment, inner_optimizer=rate, surrogate="dice"
    )

    def adapted(logits):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            value = problem.expected_return(logits)
        return logits + rate / horizon * tape.gradient(value, logits)

    def step(at):
        """What the library wants to know of all trajectories, one task."""
        states, actions, advantages = problem.trajectories(at)
        return {
            "observations": tf.one_hot(
                states.reshape(1, -1), STATES, dtype=tf.float64
            ),
            "actions": tf.constant(actions.reshape(1, -1)),
            "advantages": tf.constant(advantages.reshape(1, -1)),
            "valid": tf.ones([1, states.size], tf.float64),
            "log_probs": tf.reshape(log_policy(at, states, actions), [1, -1]),
            "outputs": tf.gather(at, states.reshape(1, -1)),
        }

    with tf.GradientTape() as tape:
        tape.watch(logits)
        value = problem.expected_return(adapted(logits)) / horizon
    expected = tape.gradient(value, logits)

    support = step(logits)
    query = step(adapted(logits))
    count = support["valid"].shape[1] // horizon
    objective = MetaObjective(
        meta_policy.search_state.learner.task_learner(1, count),
        environment.actions,
        meta_policy.meta_model.meta_gradient,
        rl.TRPO().ratio_loss,
        parallelism=1,
    )
    batch = {
        "query": query,
        "support": {
            "support_x": support["observations"],
            "support_y": {
                k: support[k]
                for k in ("actions", "log_probs", "advantages", "valid")
            },
        },
    }
    theta = Theta([logits], [], [])
    loss, gradients = objective.gradient(theta, batch)
    (gradient,) = gradients.weights
    np.testing.assert_allclose(-gradient, expected, rtol=1e-9, atol=1e-12)
    # The surrogate at the point itself: the mean advantage.
    mean = float(tf.reduce_mean(query["advantages"]))
    assert -float(loss) == pytest.approx(mean, rel=1e-9)
