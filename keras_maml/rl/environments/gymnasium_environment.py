"""Environments of gymnasium, stepped as a vector."""

from typing import Any

import numpy as np
import tensorflow as tf

from keras_maml.rl.actions import ContinuousActions
from keras_maml.rl.actions import DiscreteActions
from keras_maml.rl.actions import StatelessSeed
from keras_maml.rl.environments.environment import Environment
from keras_maml.rl.environments.environment import State
from keras_maml.rl.environments.environment import Tasks
from keras_maml.validation import check_integer


class GymnasiumEnvironment(Environment):
    """Base class for tasks in environments of gymnasium.

    Subclasses define `sample_tasks`, which draws goals, and `make_vector_env`.
    Each environment of the vector has an attribute `goal`, on which its
    rewards or its dynamics depend. Before each episode the library calls
    `vector_env.set_attr("goal", goals)` and `vector_env.reset(seed=seed)`. The
    seed must determine all randomness in the vector. The library steps the
    vector until the last episode is over, so environments whose episodes ended
    earlier must accept further steps.

    A roll-out is one call of a graph, which calls back for each step.

    Args:
        horizon: int, the most steps of an episode. An episode ends earlier
            where gymnasium terminates or truncates it. This constructor calls
            `make_vector_env`: a subclass first sets the attributes that
            `make_vector_env` needs.

    Raises:
        ValueError: if `horizon` is not a positive integer; if observations
            are not boxes; if actions are neither discrete nor boxes of one
            axis; or if the environments have no goal.

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
        """Makes a `gymnasium.vector.VectorEnv` of `num_envs` environments."""
        raise NotImplementedError

    def reset(self, tasks: Tasks, seed: StatelessSeed) -> State:
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

    def observe(self, state: State, tasks: Tasks) -> tf.Tensor:
        return state

    def step(
        self,
        state: State,
        actions: tf.Tensor,
        tasks: Tasks,
        seed: StatelessSeed,
    ) -> tuple[State, tf.Tensor, tf.Tensor]:
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
    # The name of the class: gymnasium is an extra and may be missing.
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
