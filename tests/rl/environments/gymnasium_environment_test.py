"""Environments of gymnasium, against gymnasium itself."""

import sys

import gymnasium
import numpy as np
import pytest
import tensorflow as tf

from keras_maml import rl
from tests.rl.searches import eagerly
from tests.rl.searches import search


class Walk(gymnasium.Env):
    """On a line, to a goal; ends when it is there."""

    observation_space = gymnasium.spaces.Box(-10, 10, (1,))
    action_space = gymnasium.spaces.Box(-0.5, 0.5, (1,))
    goal = 0.0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position = self.np_random.uniform(-0.1, 0.1, 1)
        return self._see(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.position = self.position + action
        away = float(np.abs(self.position - self.goal)[0])
        return self._see(), -away, away < 0.1, False, {}

    def _see(self):
        return self.position.astype(np.float32)


class Switch(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(0, 1, (1,))
    action_space = gymnasium.spaces.Discrete(2)
    goal = 0

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return (
            np.zeros(1, np.float32),
            float(action == self.goal),
            False,
            False,
            {},
        )


class Walks(rl.GymnasiumEnvironment):
    kind = Walk

    def make_vector_env(self, num_envs):
        return gymnasium.vector.SyncVectorEnv([self.kind] * num_envs)

    def sample_tasks(self, count, seed):
        return tf.random.stateless_uniform([count], seed, -1, 1)


class Switches(Walks):
    kind = Switch

    def sample_tasks(self, count, seed):
        return tf.random.stateless_uniform([count], seed, 0, 2, tf.int32)


def test_episodes_are_those_of_gymnasium():
    environment = Walks(horizon=6)
    meta_policy = search(environment)
    goals = np.array([0.5, -0.9], "float32")
    before, after = meta_policy.collect(goals)
    for trajectories in (before, after):
        actions = np.clip(trajectories.actions, -0.5, 0.5)
        seen = trajectories.observations
        valid = trajectories.valid
        assert np.all(np.abs(seen[:, :, 0]) <= 0.1)
        moved = seen[:, :, :-1] + actions[:, :, :-1]
        both = valid[:, :, 1:, None] == 1
        np.testing.assert_allclose(
            np.where(both, seen[:, :, 1:], 0),
            np.where(both, moved, 0),
            atol=1e-6,
        )
        away = np.abs(seen + actions - goals[:, None, None, None])[..., 0]
        np.testing.assert_allclose(
            trajectories.rewards, -away * valid, atol=1e-6
        )
        # Over where the goal was reached, and not before.
        there = np.cumsum(away < 0.1, 2) - (away < 0.1) > 0
        np.testing.assert_array_equal(
            valid, ~there & (np.cumsum(valid == 0, 2) == 0)
        )
    # The same seed, the same episodes.
    again = meta_policy.collect(goals)[0]
    for a, b in zip(before, again):
        np.testing.assert_array_equal(a, b)
    other = meta_policy.collect(goals, seed=1)[0]
    assert np.any(other.observations[:, :, 0] != before.observations[:, :, 0])


@pytest.mark.parametrize("environment", [Walks(4), Switches(4)])
def test_training(environment):
    meta_policy = search(environment)
    history = meta_policy.fit(environment.tasks(3), 2, verbose=0).history
    assert np.all(np.isfinite(list(history.values())))


@pytest.mark.parametrize(
    "kind",
    [rl.HalfCheetahDirection, rl.HalfCheetahVelocity, rl.AntDirection],
)
def test_robots_move_as_in_gymnasium(kind):
    environment = kind(horizon=3)
    robots = environment.make_vector_env(3)
    robots.set_attr("goal", [1.0, -1.0, 0.5])
    robots.reset(seed=1)
    options = {}
    if kind is rl.AntDirection:
        options["include_cfrc_ext_in_observation"] = False
    single = gymnasium.make(kind._ROBOT["env_id"], **options)
    single.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(5):
        actions = rng.uniform(-1, 1, (3, environment.actions.size))
        states = robots._positions.copy(), robots._velocities.copy()
        seen, rewards, ended, _, _ = robots.step(actions)
        for i, goal in enumerate((1.0, -1.0, 0.5)):
            single.unwrapped.set_state(states[0][i], states[1][i])
            expected, _, _, _, info = single.step(actions[i])
            np.testing.assert_allclose(seen[i], expected, atol=1e-9)
            # Of the ant it is that of a body, one frame late.
            velocity = info["x_velocity"]
            late = 1e-2 if kind is rl.AntDirection else 1e-9
            square = np.sum(actions[i] ** 2)
            if kind is rl.HalfCheetahVelocity:
                reward = -abs(velocity - goal) - 0.05 * square
            elif kind is rl.HalfCheetahDirection:
                reward = goal * velocity - 0.05 * square
            else:
                reward = goal * velocity - 0.005 * square + 0.05
            assert rewards[i] == pytest.approx(reward, abs=late)
        assert not np.any(ended)
    single.close()
    robots.close()
    goals = environment.tasks(200).sample(0).numpy()
    if kind is rl.HalfCheetahVelocity:
        assert np.all((goals >= 0) & (goals <= 2))
    else:
        assert set(goals) == {-1.0, 1.0}


def test_an_ant_that_falls_is_out():
    robots = rl.AntDirection().make_vector_env(2)
    robots.reset(seed=0)
    robots._positions[1, 2] = 1.5
    *_, ended, _, _ = robots.step(np.zeros((2, 8)))
    np.testing.assert_array_equal(ended, [False, True])
    robots.close()


def test_half_cheetah_is_trained_saved_and_loaded(tmp_path):
    import keras

    environment = rl.HalfCheetahVelocity(horizon=4, goals=(0.0, 3.0))
    meta_policy = search(environment)
    with eagerly():
        meta_policy.fit(environment.tasks(2), verbose=0)
    meta_policy.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.environment.get_config() == {
        "horizon": 4,
        "goals": (0.0, 3.0),
    }


class NoGoal(Walk):
    __slots__ = ()
    goal = property()


class Images(Walk):
    observation_space = gymnasium.spaces.Dict({})


class Unbounded(Walk):
    action_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,))


class Uneven(Walk):
    action_space = gymnasium.spaces.Box(np.array([-1, -2]), np.array([1, 2]))


class FromOne(Switch):
    action_space = gymnasium.spaces.Discrete(2, start=1)


def test_robots_need_an_extra(monkeypatch):
    module = "keras_maml.rl.environments.mujoco_vector_env"
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"keras-maml\[rl\]"):
        rl.AntDirection()


def test_bad_environments():
    class Bad(Walks):
        kind = Images

    with pytest.raises(ValueError, match="observations that are boxes"):
        Bad()
    Bad.kind = Unbounded
    with pytest.raises(ValueError, match="the same finite bounds"):
        Bad()
    Bad.kind = Uneven
    with pytest.raises(ValueError, match="the same finite bounds"):
        Bad()
    Bad.kind = FromOne
    with pytest.raises(ValueError, match="numbers from 0"):
        Bad()
    with pytest.raises(ValueError, match="`horizon`.*horizon=0"):
        Walks(0)
    with pytest.raises(ValueError, match="`goals`"):
        rl.HalfCheetahVelocity(goals=(1, 0))
    Bad.kind = NoGoal
    with pytest.raises(ValueError, match="no goal to adapt to"):
        Bad(3)
