"""The outer loss and its derivatives, and the steps that are taken by them."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_maml
from keras_maml import rl
from keras_maml.exact.conjugate_gradient import dot
from keras_maml.exact.conjugate_gradient import plus
from keras_maml.rl.meta_objective import MetaObjective
from tests.rl.searches import eagerly
from tests.rl.searches import search

TASKS, ROWS, HORIZON = 3, 12, 4


def problem(inner_steps=1, rematerialize=False, dtype="float64", **kwargs):
    """An objective, θ and a batch, of numbers without further meaning."""
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)
    environment = rl.GoalVelocity(horizon=HORIZON)
    policy = rl.mlp_policy(environment, (5,), activation="tanh")
    meta_policy = rl.MetaPolicySearch(
        policy,
        environment,
        inner_optimizer=0.3,
        inner_steps=inner_steps,
        meta_gradient=keras_maml.meta_gradients.SecondOrder(rematerialize),
    )
    objective = MetaObjective(
        meta_policy.search_state.learner.task_learner(
            inner_steps, ROWS // HORIZON
        ),
        environment.actions,
        meta_policy.meta_model.meta_gradient,
        rl.TRPO().ratio_loss,
        parallelism=2,
    )

    rng = np.random.default_rng(0)

    def numbers(*shape):
        # Small, so that ratios of probabilities stay about 1.
        return tf.constant(0.5 * rng.normal(size=shape), dtype)

    def step(rows):
        outputs = {
            "mean": numbers(TASKS, rows, 1),
            "log_std": 0.1 * numbers(TASKS, rows, 1),
        }
        actions = numbers(TASKS, rows, 1)
        valid = tf.cast(numbers(TASKS, rows) > -0.5, dtype)
        return {
            "observations": numbers(TASKS, rows, 2),
            "actions": actions,
            "advantages": numbers(TASKS, rows) * valid,
            "valid": valid,
            "outputs": outputs,
            "log_probs": environment.actions.log_prob(outputs, actions),
        }

    support = step(ROWS * inner_steps)
    batch = {
        "query": step(ROWS),
        "support": {
            "support_x": support.pop("observations"),
            "support_y": support,
        },
    }
    return meta_policy, objective, meta_policy.meta_state.theta(), batch


def differences(function, theta, vector, width=1e-5):
    """The derivative of `function` along a vector."""
    up = function(plus(theta, width, vector))
    down = function(plus(theta, -width, vector))
    return tf.nest.map_structure(lambda a, b: (a - b) / (2 * width), up, down)


def directions(theta, count=3):
    rng = np.random.default_rng(1)
    for _ in range(count):
        yield tf.nest.map_structure(
            lambda t: tf.constant(rng.normal(size=t.shape), t.dtype), theta
        )


@pytest.mark.parametrize(
    ("inner_steps", "rematerialize"),
    [
        (1, False),
        (2, False),
        pytest.param(1, True, marks=pytest.mark.slow),
        pytest.param(2, True, marks=pytest.mark.slow),
    ],
)
def test_derivatives_equal_differences(inner_steps, rematerialize):
    _, objective, theta, batch = problem(inner_steps, rematerialize)
    loss, gradient = objective.gradient(theta, batch)
    with eagerly():
        again = objective.losses(theta, batch)[0]
    assert float(loss) == pytest.approx(float(again), rel=1e-10)

    def kl_gradient(theta):
        with tf.GradientTape() as tape:
            tape.watch(theta)
            kl = objective.losses(theta, batch)[1]
        return tape.gradient(kl, theta)

    for vector in directions(theta):
        # The differences need no trace.
        with eagerly():
            slope = differences(
                lambda theta: objective.losses(theta, batch)[0], theta, vector
            )
            expected = differences(kl_gradient, theta, vector)
        along = float(dot(gradient, vector))
        assert along == pytest.approx(float(slope), rel=1e-6, abs=1e-9)
        product = objective.kl_product(theta, vector, batch)
        for a, b in zip(tf.nest.flatten(product), tf.nest.flatten(expected)):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_loss_and_divergence_by_hand():
    meta_policy, objective, theta, batch = problem(inner_steps=0)
    with eagerly():
        loss, divergence = objective.losses(theta, batch)
    losses, divergences = [], []
    for task in range(TASKS):
        query = tf.nest.map_structure(lambda t, i=task: t[i], batch["query"])
        new = meta_policy.policy(query["observations"])
        taken = query["valid"].numpy() > 0
        scaled = (query["actions"] - new["mean"]) / tf.exp(new["log_std"])
        log_probs = -0.5 * (scaled**2 + np.log(2 * np.pi)) - new["log_std"]
        ratio = tf.exp(log_probs[:, 0] - query["log_probs"])
        losses.append(np.mean((-ratio * query["advantages"])[taken]))
        old = query["outputs"]
        variances = [tf.exp(2 * of["log_std"]) for of in (old, new)]
        square = tf.square(old["mean"] - new["mean"])
        kl = (
            new["log_std"]
            - old["log_std"]
            + (variances[0] + square) / (2 * variances[1])
            - 0.5
        )
        divergences.append(np.mean(kl[:, 0][taken]))
    assert float(loss) == pytest.approx(np.mean(losses), rel=1e-6)
    assert float(divergence) == pytest.approx(np.mean(divergences), rel=1e-6)


class Quadratic:
    """Loss and KL by hand: a·θ, and ½ θᵀ diag(c) θ from the start."""

    def __init__(self, kl_factor=1.0):
        self.slope = tf.constant([1.0, -2.0, 0.5])
        self.curvature = tf.constant([1.0, 4.0, 0.25])
        self.kl_factor = kl_factor

    def losses(self, theta, batch):
        (theta,) = theta
        kl = 0.5 * tf.reduce_sum(self.curvature * theta**2)
        return tf.reduce_sum(self.slope * theta), self.kl_factor * kl

    def gradient(self, theta, batch):
        return self.losses(theta, batch)[0], [self.slope]

    def kl_product(self, theta, vector, batch):
        return [self.curvature * vector[0]]


def test_trpo_takes_the_natural_gradient_to_the_bound():
    variable = keras.Variable(np.zeros(3, np.float32))
    objective = Quadratic()
    update = rl.TRPO(max_kl=0.02, damping=0.0)
    logs = update.update(objective, None, [variable])
    natural = objective.slope / objective.curvature
    step = np.sqrt(2 * 0.02 / np.sum(objective.slope * natural))
    # By a hair more than the bound, it may be shortened once.
    ratio = -variable.numpy() / (step * natural.numpy())
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-4)
    assert ratio[0] == pytest.approx(0.8 ** float(logs["backtracks"]), rel=1e-4)
    assert float(logs["backtracks"]) <= 1
    assert 0 < float(logs["kl"]) <= 0.02
    assert float(logs["improvement"]) > 0


def test_damping_adds_to_the_curvature():
    variable = keras.Variable(np.zeros(3, np.float32))
    objective = Quadratic()
    rl.TRPO(max_kl=0.02, damping=0.5).update(objective, None, [variable])
    damped = objective.slope / (objective.curvature + 0.5)
    ratio = -variable.numpy() / damped.numpy()
    assert ratio[0] > 0
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-4)


def test_trpo_shortens_a_step_whose_kl_is_larger_than_it_looked():
    variable = keras.Variable(np.zeros(3, np.float32))
    logs = rl.TRPO(max_kl=0.02, damping=0.0).update(
        Quadratic(kl_factor=3.0), None, [variable]
    )
    # 0.8 ** 2k of it has to be below a third.
    assert float(logs["backtracks"]) == 3
    assert 0.8**2 * 0.02 < float(logs["kl"]) <= 0.02


@pytest.mark.parametrize("factor", [1e6, np.nan])
def test_trpo_stays_where_no_step_is_right(factor):
    variable = keras.Variable(np.zeros(3, np.float32))
    logs = rl.TRPO().update(Quadratic(kl_factor=factor), None, [variable])
    np.testing.assert_array_equal(variable, np.zeros(3))
    assert float(logs["improvement"]) == float(logs["kl"]) == 0.0


@pytest.mark.parametrize("update", [rl.TRPO(), rl.PPO(1e-4, steps=3)])
def test_a_real_step(update):
    environment = rl.GoalVelocity(horizon=HORIZON)
    meta_policy = search(environment, outer_update=update, episodes=5)
    before = meta_policy.get_weights()
    history = meta_policy.fit(environment.tasks(4), 2, verbose=0).history
    # Later, Adam goes on in the direction of earlier meta-batches.
    improved = history["improvement"]
    assert improved[0] > 0
    if isinstance(update, rl.TRPO):
        assert improved[1] > 0
        assert all(0 < kl <= 0.01 for kl in history["kl"])
    for a, b in zip(before, meta_policy.get_weights(), strict=True):
        assert np.any(a != b)


def test_ppo_does_not_gain_from_large_ratios():
    update = rl.PPO(clip=0.2)
    ratio = tf.constant([0.5, 0.9, 1.5, 0.5, 1.5])
    advantages = tf.constant([1.0, 1.0, 1.0, -1.0, -1.0])
    np.testing.assert_allclose(
        update.ratio_loss(ratio, advantages),
        [-0.5, -0.9, -1.2, 0.8, 1.5],
        rtol=1e-6,
    )


def test_ppo_needs_its_optimizer():
    with pytest.raises(ValueError, match="`PPO.optimizer` makes.*None"):
        rl.PPO().update(Quadratic(), None, [], None)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rl.TRPO(max_kl=0), "`max_kl`.*Received: max_kl=0"),
        (lambda: rl.TRPO(cg_steps=0), "`cg_steps`"),
        (lambda: rl.TRPO(damping=-1), "`damping`"),
        (lambda: rl.TRPO(backtracks=-1), "`backtracks`"),
        (lambda: rl.TRPO(backtrack_ratio=1), "`backtrack_ratio`"),
        (lambda: rl.PPO(learning_rate=0), "`learning_rate`"),
        (lambda: rl.PPO(steps=0), "`steps`"),
        (lambda: rl.PPO(clip=0), "`clip`"),
    ],
)
def test_bad_settings(make, message):
    with pytest.raises(ValueError, match=message):
        make()
