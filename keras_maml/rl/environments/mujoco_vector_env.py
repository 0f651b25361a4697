"""Many copies of one MuJoCo robot, stepped side by side on all cores."""

import gymnasium
import mujoco
import numpy as np
from gymnasium.vector.utils import batch_space
from mujoco import rollout


class MujocoVectorEnv(gymnasium.vector.VectorEnv):
    """Copies of a robot of gymnasium, which MuJoCo steps all at once.

    The environment `env_id` defines the robot, the frames of a step and the
    start of an episode. gymnasium's own vectors call MuJoCo for one
    environment after another, at about a quarter of the speed on two cores.

    Args:
        env_id: string, names a `gymnasium.envs.mujoco.MujocoEnv` whose first
            position is along x.
        num_envs: int.
        forward_reward: function of the forward velocities and goals, arrays
            `(num_envs,)`, that returns rewards.
        hidden_positions: int, how many of the first positions are not
            observed.
        control_cost: float, the cost of ‖a‖².
        survival_reward: float, for each step.
        heights: pair of floats or `None`. An episode ends when the height of
            the robot's torso leaves this range.
        threads: int.
    """

    metadata = {"autoreset_mode": gymnasium.vector.AutoresetMode.DISABLED}

    def __init__(
        self,
        env_id,
        num_envs,
        forward_reward,
        hidden_positions,
        control_cost,
        survival_reward=0.0,
        heights=None,
        threads=1,
    ):
        env = gymnasium.make(env_id)
        robot = env.unwrapped
        self.num_envs = num_envs
        self.goal = np.zeros(num_envs)
        self._forward_reward = forward_reward
        self._hidden_positions = hidden_positions
        self._control_cost = control_cost
        self._survival_reward = survival_reward
        self._heights = heights
        self._model = robot.model
        self._frames = robot.frame_skip
        self._seconds = robot.dt
        self._start = robot.init_qpos, robot.init_qvel
        self._noise = robot._reset_noise_scale
        width = self._model.nq - hidden_positions + self._model.nv
        self.single_observation_space = gymnasium.spaces.Box(
            -np.inf, np.inf, (width,), np.float64
        )
        self.single_action_space = robot.action_space
        self.observation_space = batch_space(
            self.single_observation_space, num_envs
        )
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._data = [mujoco.MjData(self._model) for _ in range(threads)]
        self._rollout = rollout.Rollout(nthread=threads)
        self._state = np.zeros(
            (
                num_envs,
                mujoco.mj_stateSize(
                    self._model, mujoco.mjtState.mjSTATE_FULLPHYSICS
                ),
            )
        )
        env.close()

    def get_attr(self, name):
        if name != "goal":
            raise AttributeError(name)
        return tuple(self.goal)

    def set_attr(self, name, values):
        if name != "goal":
            raise AttributeError(name)
        self.goal = np.asarray(values, np.float64)

    def reset(self, *, seed=None, options=None):
        rng = np.random.default_rng(seed)
        positions, velocities = self._start
        shape = (self.num_envs, self._model.nq)
        self._state[:] = 0
        self._positions[:] = positions + rng.uniform(
            -self._noise, self._noise, shape
        )
        self._velocities[:] = velocities + self._noise * rng.standard_normal(
            (self.num_envs, self._model.nv)
        )
        return self._observe(), {}

    def step(self, actions):
        before = self._positions[:, 0].copy()
        control = np.repeat(
            np.asarray(actions, np.float64)[:, None], self._frames, 1
        )
        states, _ = self._rollout.rollout(
            self._model, self._data, self._state, control
        )
        self._state = np.ascontiguousarray(states[:, -1])
        velocity = (self._positions[:, 0] - before) / self._seconds
        rewards = (
            self._forward_reward(velocity, self.goal)
            - self._control_cost * np.sum(np.square(actions), -1)
            + self._survival_reward
        )
        terminated = np.zeros(self.num_envs, bool)
        if self._heights is not None:
            low, high = self._heights
            height = self._positions[:, 2]
            # NaN ends an episode too.
            terminated = ~((height >= low) & (height <= high))
        return (
            self._observe(),
            rewards,
            terminated,
            np.zeros(self.num_envs, bool),
            {},
        )

    def close_extras(self, **kwargs):
        self._rollout.close()

    # MuJoCo's state is the time, positions and velocities, in this order.

    @property
    def _positions(self):
        return self._state[:, 1 : 1 + self._model.nq]

    @property
    def _velocities(self):
        first = 1 + self._model.nq
        return self._state[:, first : first + self._model.nv]

    def _observe(self):
        return np.concatenate(
            [self._positions[:, self._hidden_positions :], self._velocities],
            -1,
        )
