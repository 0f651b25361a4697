"""A mass on a line, which must find the velocity that is rewarded."""

from typing import Any

import keras
import tensorflow as tf

from keras_maml.rl.actions import ContinuousActions
from keras_maml.rl.actions import StatelessSeed
from keras_maml.rl.environments.environment import Environment
from keras_maml.rl.environments.environment import State
from keras_maml.rl.environments.environment import Tasks
from keras_maml.validation import check_integer
from keras_maml.validation import check_number
from keras_maml.validation import check_range


@keras.saving.register_keras_serializable(package="keras_maml")
class GoalVelocity(Environment):
    """A double integrator: each task is a velocity to reach and to keep.

    The action, clipped to ±1, is a force on a mass of 1. The observation is
    position and velocity. The reward is −|v − goal| − `control_cost` · a². It
    is half-cheetah velocity in a few operations.

    Args:
        horizon: int, the steps of an episode. Defaults to `50`.
        goals: pair of floats, the range of goal velocities. Defaults to
            `(-1.0, 1.0)`.
        time_step: float, the seconds of a step. Defaults to `0.1`.
        control_cost: float. Defaults to `0.05`.

    Raises:
        ValueError: if an argument is not of that form.

    Example:

    ```python
    environment = keras_maml.rl.GoalVelocity(horizon=20, goals=(0.0, 2.0))
    ```
    """

    observation_shape = (2,)

    def __init__(
        self,
        horizon: int = 50,
        goals: tuple[float, float] = (-1.0, 1.0),
        time_step: float = 0.1,
        control_cost: float = 0.05,
    ) -> None:
        self.horizon = check_integer("horizon", horizon)
        self.goals = check_range("goals", goals)
        self.time_step = check_number("time_step", time_step, above=0)
        self.control_cost = check_number("control_cost", control_cost, 0)
        self.actions = ContinuousActions(1)

    def sample_tasks(self, count: int, seed: StatelessSeed) -> Tasks:
        return tf.random.stateless_uniform([count], seed, *self.goals)

    def reset(self, tasks: Tasks, seed: StatelessSeed) -> State:
        return tf.stack([tf.zeros_like(tasks)] * 2, -1)

    def observe(self, state: State, tasks: Tasks) -> tf.Tensor:
        return state

    def step(
        self,
        state: State,
        actions: tf.Tensor,
        tasks: Tasks,
        seed: StatelessSeed,
    ) -> tuple[State, tf.Tensor, tf.Tensor]:
        force = self.actions.clip(actions)[:, 0]
        velocity = state[:, 1] + self.time_step * force
        position = state[:, 0] + self.time_step * velocity
        rewards = -tf.abs(velocity - tasks) - self.control_cost * force**2
        state = tf.stack([position, velocity], -1)
        return state, rewards, tf.zeros_like(rewards, tf.bool)

    def get_config(self) -> dict[str, Any]:
        return {
            "horizon": self.horizon,
            "goals": self.goals,
            "time_step": self.time_step,
            "control_cost": self.control_cost,
        }
