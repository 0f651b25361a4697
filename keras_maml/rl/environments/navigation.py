"""A point in the plane, which must find a goal that it does not see."""

from typing import Any

import keras
import tensorflow as tf

from keras_maml.rl.actions import ContinuousActions
from keras_maml.rl.actions import StatelessSeed
from keras_maml.rl.environments.environment import Environment
from keras_maml.rl.environments.environment import State
from keras_maml.rl.environments.environment import Tasks
from keras_maml.validation import check_bool
from keras_maml.validation import check_integer
from keras_maml.validation import check_number


@keras.saving.register_keras_serializable(package="keras_maml")
class PointNavigation(Environment):
    """2D navigation: each task is a goal, known by its rewards alone.

    A point starts at the origin and moves by a tenth of the action, whose
    entries are clipped to ±1. The observation is its position. The reward is
    minus its distance from the goal. An episode ends when both coordinates are
    within 0.01 of the goal. Goals are uniform in the square [−`size`, `size`]².

    Args:
        horizon: int, the most steps of an episode. Defaults to `100`.
        size: float, half the side of the square of goals. Defaults to `0.5`.
        squared: bool. Whether the reward is minus the squared distance, as in
            the paper's text. Its released code has the distance. Defaults to
            `False`.
        observe_goal: bool. Whether the goal is part of the observation, as for
            the paper's oracle. Defaults to `False`.

    Raises:
        ValueError: if an argument is not of that form.

    Example:

    ```python
    environment = keras_maml.rl.PointNavigation(horizon=20)
    policy = keras_maml.rl.mlp_policy(environment, hidden_units=(32,))
    ```

    Reference:
        Finn et al., 2017, section 5.3, "2D navigation": velocities clipped to
        ±0.1, which the released code scales to actions of ±1.
    """

    def __init__(
        self,
        horizon: int = 100,
        size: float = 0.5,
        squared: bool = False,
        observe_goal: bool = False,
    ) -> None:
        self.horizon = check_integer("horizon", horizon)
        self.size = check_number("size", size, above=0)
        self.squared = check_bool("squared", squared)
        self.observe_goal = check_bool("observe_goal", observe_goal)
        self.observation_shape = (4 if observe_goal else 2,)
        self.actions = ContinuousActions(2)

    def sample_tasks(self, count: int, seed: StatelessSeed) -> Tasks:
        return tf.random.stateless_uniform(
            [count, 2], seed, -self.size, self.size
        )

    def reset(self, tasks: Tasks, seed: StatelessSeed) -> State:
        return tf.zeros_like(tasks)

    def observe(self, state: State, tasks: Tasks) -> tf.Tensor:
        return tf.concat([state, tasks], -1) if self.observe_goal else state

    def step(
        self,
        state: State,
        actions: tf.Tensor,
        tasks: Tasks,
        seed: StatelessSeed,
    ) -> tuple[State, tf.Tensor, tf.Tensor]:
        state += 0.1 * self.actions.clip(actions)
        away = state - tasks
        square = tf.reduce_sum(tf.square(away), -1)
        rewards = -square if self.squared else -tf.sqrt(square)
        return state, rewards, tf.reduce_all(tf.abs(away) < 0.01, -1)

    def get_config(self) -> dict[str, Any]:
        return {
            "horizon": self.horizon,
            "size": self.size,
            "squared": self.squared,
            "observe_goal": self.observe_goal,
        }
