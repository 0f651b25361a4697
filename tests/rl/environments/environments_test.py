"""The environments inside the graph, and roll-outs in them."""

import numpy as np
import pytest
import tensorflow as tf

from keras_maml import rl
from keras_maml.rl.roll_out import roll_out


def play(environment, actions, tasks):
    """The rewards of given actions `(B, H, ...)`, and the last state."""
    state = environment.reset(tasks, (0, 0))
    rewards = []
    for t in range(actions.shape[1]):
        state, reward, ended = environment.step(
            state, tf.constant(actions[:, t]), tasks, (0, t)
        )
        rewards.append(reward)
    return np.stack(rewards, 1), state, ended


def test_navigation():
    environment = rl.PointNavigation()
    goals = tf.constant([[0.3, -0.2], [0.1, 0.005]])
    actions = np.array([[[0.5, -3.0]], [[9.0, 0.0]]], "float32")
    rewards, state, ended = play(environment, actions, goals)
    # By at most 0.1; the second has arrived.
    np.testing.assert_allclose(state, [[0.05, -0.1], [0.1, 0.0]], rtol=1e-6)
    np.testing.assert_allclose(
        rewards[:, 0], [-np.hypot(0.25, 0.1), -0.005], rtol=1e-5
    )
    np.testing.assert_array_equal(ended, [False, True])
    squared, _, _ = play(rl.PointNavigation(squared=True), actions, goals)
    np.testing.assert_allclose(squared, -(rewards**2), rtol=1e-5)
    oracle = rl.PointNavigation(observe_goal=True)
    np.testing.assert_allclose(
        oracle.observe(state, goals), np.concatenate([state, goals], 1)
    )
    drawn = environment.tasks(1000).sample(0).numpy()
    assert np.all(np.abs(drawn) <= 0.5)
    assert np.abs(drawn).max() > 0.49


def test_goal_velocity():
    environment = rl.GoalVelocity(time_step=0.5, control_cost=0.1)
    actions = np.array([[[1.0], [-3.0], [0.5]]], "float32")
    rewards, state, _ = play(environment, actions, tf.constant([0.2]))
    velocities = np.array([0.5, 0.0, 0.25])
    np.testing.assert_allclose(
        rewards[0],
        -np.abs(velocities - 0.2) - 0.1 * np.array([1, 1, 0.25]),
        rtol=1e-6,
    )
    np.testing.assert_allclose(state, [[0.375, 0.25]], rtol=1e-6)


def test_tabular():
    environment = rl.TabularMDP(3, 2, noise=0.5)
    task = environment.tasks(1).sample(0)
    np.testing.assert_allclose(
        tf.reduce_sum(task["transitions"], -1), np.ones((1, 3, 2)), rtol=1e-5
    )
    many = tf.nest.map_structure(lambda t: tf.repeat(t, 100_000, 0), task)
    state = tf.fill([100_000], 2)
    state, rewards, _ = environment.step(
        state, tf.ones([100_000], tf.int32), many, (0, 1)
    )
    share = np.bincount(state, minlength=3) / 100_000
    np.testing.assert_allclose(share, task["transitions"][0, 2, 1], atol=0.01)
    assert np.mean(rewards) == pytest.approx(
        float(task["rewards"][0, 2, 1]), abs=0.01
    )
    assert np.std(rewards) == pytest.approx(0.5, abs=0.01)


def constant_actions(*actions):
    """A policy that always draws about these actions."""

    def act(observations):
        mean = tf.broadcast_to(actions, observations.shape)
        return {"mean": mean, "log_std": tf.fill(mean.shape, -20.0)}

    return act


def test_an_episode_is_over_at_its_end():
    environment = rl.PointNavigation(horizon=5)
    goals = tf.constant([[0.3, 0.0], [5.0, 5.0]])
    trajectories = roll_out(
        environment, constant_actions(2.0, 0.0), goals, 2, (0, 0)
    )
    np.testing.assert_array_equal(
        trajectories.valid[:, 0], [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    )
    np.testing.assert_allclose(
        trajectories.rewards[0, 0], [-0.2, -0.1, 0, 0, 0], atol=1e-6
    )
    np.testing.assert_allclose(
        trajectories.observations[0, 1, :3, 0], [0, 0.1, 0.2], atol=1e-6
    )
    # Actions are as they were drawn, for their probabilities.
    np.testing.assert_allclose(trajectories.actions[1, 0, :, 0], 2.0, rtol=1e-5)


class Count(rl.Environment):
    """Counts steps, each of which is its reward, up to the task."""

    observation_shape = (1,)
    horizon = 5

    def __init__(self):
        self.actions = rl.ContinuousActions(1)

    def reset(self, tasks, seed):
        return tf.zeros_like(tasks)

    def observe(self, state, tasks):
        return state[:, tf.newaxis]

    def step(self, state, actions, tasks, seed):
        return state + 1, state + 1, state + 1 >= tasks


def test_the_last_step_counts_and_the_state_stays_after_it():
    trajectories = roll_out(
        Count(),
        constant_actions(0.0),
        tf.constant([2.0, 9.0]),
        1,
        (0, 0),
    )
    np.testing.assert_array_equal(
        trajectories.rewards[:, 0], [[1, 2, 0, 0, 0], [1, 2, 3, 4, 5]]
    )
    np.testing.assert_array_equal(
        trajectories.observations[:, 0, :, 0],
        [[0, 1, 1, 1, 1], [0, 1, 2, 3, 4]],
    )


def test_all_episodes_may_end_early():
    environment = rl.PointNavigation(horizon=5)
    goals = tf.constant([[0.1, 0.0]])
    trajectories = roll_out(
        environment, constant_actions(2.0, 0.0), goals, 2, (0, 0)
    )
    assert trajectories.rewards.shape == (1, 2, 5)
    np.testing.assert_array_equal(trajectories.valid.numpy().sum(-1), [[1, 1]])


def test_steps_and_episodes_draw_their_own_numbers():
    def act(observations):
        shape = [*observations.shape[:-1], 2]
        return {"mean": tf.zeros(shape), "log_std": tf.zeros(shape)}

    actions = roll_out(
        rl.PointNavigation(horizon=5), act, tf.constant([[9.0, 9.0]]), 2, (0, 0)
    ).actions
    assert actions.shape == (1, 2, 5, 2)
    assert len(np.unique(actions)) == 2 * 5 * 2


@pytest.mark.parametrize(
    "environment",
    [rl.PointNavigation(5), rl.GoalVelocity(5), rl.TabularMDP(3, 2, 5)],
)
def test_seeds_determine_everything(environment):
    meta_policy = rl.MetaPolicySearch(
        rl.mlp_policy(environment, (4,)), environment, episodes=2
    )
    sampler = environment.tasks(3, seed=1)
    tasks = sampler.sample(0)

    def same(a, b):
        return all(
            np.array_equal(i, j)
            for i, j in zip(tf.nest.flatten(a), tf.nest.flatten(b))
        )

    assert same(tasks, sampler.sample(0))
    assert not same(tasks, sampler.sample(1))
    assert not same(tasks, environment.tasks(3, seed=2).sample(0))
    one = meta_policy.collect(tasks, seed=3)
    assert same(one, meta_policy.collect(tasks, seed=3))
    assert not same(one, meta_policy.collect(tasks, seed=4))
    # Episodes of a task differ, and so do roll-outs before and after.
    assert not same(one[0].actions[0, 0], one[0].actions[0, 1])
    assert not same(one[0].actions, one[1].actions)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rl.PointNavigation(horizon=0), "`horizon`"),
        (lambda: rl.PointNavigation(size=0), "`size`"),
        (lambda: rl.PointNavigation(squared=1), "`squared`"),
        (lambda: rl.PointNavigation(observe_goal=None), "`observe_goal`"),
        (lambda: rl.GoalVelocity(horizon=1.5), "`horizon`"),
        (lambda: rl.GoalVelocity(goals=(1, 0)), "`goals`"),
        (lambda: rl.GoalVelocity(time_step=0), "`time_step`"),
        (lambda: rl.GoalVelocity(control_cost=-1), "`control_cost`"),
        (lambda: rl.TabularMDP(states=0), "`states`"),
        (lambda: rl.TabularMDP(actions=1), "`actions`"),
        (lambda: rl.TabularMDP(horizon=0), "`horizon`"),
        (lambda: rl.TabularMDP(noise=-1), "`noise`"),
        (lambda: rl.PointNavigation().tasks(0), "`count`"),
        (lambda: rl.PointNavigation().tasks(1, seed=-1), "`seed`"),
        (lambda: rl.TaskSampler("navigation", 1), "`environment` must be"),
    ],
)
def test_bad_settings(make, message):
    with pytest.raises(ValueError, match=message):
        make()
