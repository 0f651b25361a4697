"""Environments of gymnasium, as vectors of them."""

from typing import Any

import numpy as np
import tensorflow as tf

from keras_maml.rl.actions import ContinuousActions
from keras_maml.rl.actions import DiscreteActions
from keras_maml.rl.environments.environment import Environment
from keras_maml.validation import check_integer


class GymnasiumEnvironment(Environment):
    """Base class for tasks in environments of gymnasium.

    Subclasses define `make_vector_env`, and `sample_tasks`, which draws goals.
    Before an episode each environment of the vector gets one, by
    `vector_env.set_attr("goal", goals)`, so it must have an attribute `goal`
    that its rewards, or whatever differs from task to task, depend on. The
    vector is reset with a seed, from which all else in it must follow, and is
    stepped until the last of its episodes is over: it must bear that, as one
    that resets what has ended does.

    Roll-outs are one call of a graph, which calls back for each step.

    Args:
        horizon: int, the most steps of an episode. One that gymnasium
            terminates or truncates before ends there. The vector is made
            here, once: a subclass sets what it needs for that before.

    Raises:
        ValueError: if `horizon` is not a positive integer, or the spaces are
            not boxes of numbers (of one axis, for actions) or, for actions,
            discrete; or the environments have no goal.

    Example:

    ```python
    import gymnasium

    class PendulumLength(keras_maml.rl.GymnasiumEnvironment):
        def make_vector_env(self, num_envs):
            def make():
                env = gymnasium.make("Pendulum-v1")
                env.unwrapped.goal = np.float32(1.0)
                return GoalIsLength(env)

            return gymnasium.vector.SyncVectorEnv([make] * num_envs)

        def sample_tasks(self, count, seed):
            return tf.random.stateless_uniform([count], seed, 0.5, 1.5)

    class GoalIsLength(gymnasium.Wrapper):
        def step(self, action):
            self.unwrapped.l = float(self.unwrapped.goal)
            return self.env.step(action)

    environment = PendulumLength(horizon=10)
    policy = keras_maml.rl.mlp_policy(environment, hidden_units=(8,))
    ```
    """

    def __init__(self, horizon: int = 200) -> None:
        self.horizon = check_integer("horizon", horizon)
        self._vector_env: Any = None
        vector_env = self.make_vector_env(1)
        self.observation_shape = _observation_shape(vector_env)
        self.actions = _actions(vector_env)
        try:
            vector_env.get_attr("goal")
        except AttributeError as error:
            raise ValueError(
                "The environments of `make_vector_env` have no goal to adapt "
                f"to: no attribute `goal`. Received: {vector_env!r}"
            ) from error
        finally:
            vector_env.close()

    def make_vector_env(self, num_envs: int) -> Any:
        """Makes a `gymnasium.vector.VectorEnv` of so many environments."""
        raise NotImplementedError

    def reset(self, tasks: Any, seed: Any) -> Any:
        flat = tf.nest.flatten(tasks)

        def begin(seed, *flat):
            goals = tf.nest.pack_sequence_as(tasks, flat)
            return self._reset(goals, flat[0].shape[0], seed)

        seed = tf.random.stateless_uniform(
            [], seed, 0, tf.int32.max, dtype=tf.int32
        )
        observations = tf.numpy_function(begin, [seed, *flat], tf.float32)
        return tf.ensure_shape(
            observations, [flat[0].shape[0], *self.observation_shape]
        )

    def observe(self, state: Any, tasks: Any) -> Any:
        return state

    def step(
        self, state: Any, actions: Any, tasks: Any, seed: Any
    ) -> tuple[Any, Any, Any]:
        observations, rewards, ended = tf.numpy_function(
            self._step,
            [self.actions.clip(actions)],
            (tf.float32, tf.float32, tf.bool),
        )
        batch = state.shape[0]
        return (
            tf.ensure_shape(observations, state.shape),
            tf.ensure_shape(rewards, [batch]),
            tf.ensure_shape(ended, [batch]),
        )

    def get_config(self) -> dict[str, Any]:
        return {"horizon": self.horizon}

    def _reset(self, goals, count, seed):
        if self._vector_env is None or self._vector_env.num_envs != count:
            if self._vector_env is not None:
                self._vector_env.close()
            self._vector_env = self.make_vector_env(count)
        goals = [
            tf.nest.map_structure(lambda t, i=i: t[i], goals)
            for i in range(count)
        ]
        self._vector_env.set_attr("goal", goals)
        observations, _ = self._vector_env.reset(seed=int(seed))
        return np.array(observations, np.float32)

    def _step(self, actions):
        observations, rewards, terminated, truncated, _ = self._vector_env.step(
            actions
        )
        return (
            np.array(observations, np.float32),
            np.array(rewards, np.float32),
            np.logical_or(terminated, truncated),
        )


def _observation_shape(vector_env):
    space = vector_env.single_observation_space
    # By name: gymnasium is an extra, not needed to import this.
    if type(space).__name__ != "Box":
        raise ValueError(
            "`make_vector_env` must give observations that are boxes of "
            f"numbers. Received: single_observation_space={space!r}"
        )
    return tuple(space.shape)


def _actions(vector_env):
    space = vector_env.single_action_space
    kind = type(space).__name__
    if kind == "Discrete" and space.start == 0:
        return DiscreteActions(int(space.n))
    if kind == "Box" and len(space.shape) == 1:
        low, high = float(space.low.min()), float(space.high.max())
        same = np.all(space.low == low) and np.all(space.high == high)
        if same and np.isfinite(low) and np.isfinite(high):
            return ContinuousActions(space.shape[0], low, high)
    raise ValueError(
        "`make_vector_env` must take actions that are numbers from 0, or "
        "vectors with the same finite bounds for all entries. "
        f"Received: single_action_space={space!r}"
    )
