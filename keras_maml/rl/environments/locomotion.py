"""MuJoCo's half-cheetah and ant, with goals."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_maml.engine.processors import available_processors
from keras_maml.rl.actions import StatelessSeed
from keras_maml.rl.environments.environment import Tasks
from keras_maml.rl.environments.gymnasium_environment import (
    GymnasiumEnvironment,
)
from keras_maml.validation import check_range


class _Locomotion(GymnasiumEnvironment):
    """A robot of gymnasium, whose goal is about its forward velocity."""

    # Arguments of `MujocoVectorEnv`.
    _ROBOT: dict[str, Any]

    def make_vector_env(self, num_envs: int) -> Any:
        try:
            from keras_maml.rl.environments.mujoco_vector_env import (
                MujocoVectorEnv,
            )
        except ImportError as error:
            raise ImportError(
                f"`{type(self).__name__}` needs gymnasium and MuJoCo: "
                "pip install 'keras-maml[rl]'"
            ) from error
        return MujocoVectorEnv(
            num_envs=num_envs,
            forward_reward=self._forward_reward,
            threads=available_processors(),
            **self._ROBOT,
        )

    def _forward_reward(self, velocity, goal):
        """The part of the rewards that depends on the goals.

        Args:
            velocity: array `(B,)`, in metres a second.
            goal: array `(B,)`.

        Returns:
            An array `(B,)`.
        """
        raise NotImplementedError


_CHEETAH = {
    "env_id": "HalfCheetah-v5",
    "hidden_positions": 1,
    "control_cost": 0.05,
}


@keras.saving.register_keras_serializable(package="keras_maml")
class HalfCheetahDirection(_Locomotion):
    """A half-cheetah, which must find out whether to run forward or backward.

    The goal is 1.0 or −1.0, with equal odds. The reward of a step is
    goal · v − 0.05 ‖a‖², with v the forward velocity in metres a second. Needs
    the extra `[rl]`.

    Args:
        horizon: int, the steps of an episode. Defaults to `200`.

    Raises:
        ImportError: if gymnasium or MuJoCo is missing.
        ValueError: if `horizon` is not a positive integer.

    Example:

    ```python
    environment = keras_maml.rl.HalfCheetahDirection(horizon=50)
    environment.observation_shape  # (17,)
    ```

    Reference:
        Finn et al., 2017, section 5.3, "Locomotion". Deviation: gymnasium's
        `HalfCheetah-v5`, where the paper has rllab's half-cheetah and an older
        MuJoCo. The robot is the same. A step lasts 0.05 s instead of 0.01 s,
        the observation has no centre of mass, the joints are displaced more at
        the start, and actions are squared before they are clipped, not after.
        Returns cannot be compared with the paper's.
    """

    _ROBOT = _CHEETAH

    def sample_tasks(self, count: int, seed: StatelessSeed) -> Tasks:
        return _forward_or_backward(count, seed)

    def _forward_reward(self, velocity, goal):
        return goal * velocity


@keras.saving.register_keras_serializable(package="keras_maml")
class HalfCheetahVelocity(_Locomotion):
    """A half-cheetah, which must find the velocity that is rewarded.

    The reward of a step is −|v − goal| − 0.05 ‖a‖², with v the forward
    velocity in metres a second. Needs the extra `[rl]`.

    Args:
        horizon: int, the steps of an episode. Defaults to `200`.
        goals: pair of floats, the range of goal velocities, which are uniform
            in it. Defaults to `(0.0, 2.0)`.

    Raises:
        ImportError: if gymnasium or MuJoCo is missing.
        ValueError: if an argument is not of that form.

    Example:

    ```python
    environment = keras_maml.rl.HalfCheetahVelocity(goals=(0.0, 3.0))
    ```

    Reference:
        Finn et al., 2017, section 5.3, "Locomotion". For deviations see
        `HalfCheetahDirection`.
    """

    _ROBOT = _CHEETAH

    def __init__(
        self, horizon: int = 200, goals: tuple[float, float] = (0.0, 2.0)
    ) -> None:
        super().__init__(horizon)
        self.goals = check_range("goals", goals)

    def sample_tasks(self, count: int, seed: StatelessSeed) -> Tasks:
        return tf.random.stateless_uniform([count], seed, *self.goals)

    def _forward_reward(self, velocity, goal):
        return -np.abs(velocity - goal)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "goals": self.goals}


@keras.saving.register_keras_serializable(package="keras_maml")
class AntDirection(_Locomotion):
    """An ant, which must find out whether to run forward or backward.

    The goal is 1.0 or −1.0, with equal odds. The reward of a step is
    goal · v − 0.005 ‖a‖² + 0.05, with v the velocity along x in metres a
    second; an episode ends when the torso is below 0.2 or above 1.0 metres.
    Needs the extra `[rl]`.

    Args:
        horizon: int, the most steps of an episode. Defaults to `200`.

    Raises:
        ImportError: if gymnasium or MuJoCo is missing.
        ValueError: if `horizon` is not a positive integer.

    Example:

    ```python
    environment = keras_maml.rl.AntDirection(horizon=50)
    environment.observation_shape  # (27,)
    ```

    Reference:
        Finn et al., 2017, section 5.3, "Locomotion". Deviation: gymnasium's
        `Ant-v5`, where the paper has rllab's ant and an older MuJoCo. A step
        lasts 0.05 s instead of 0.02 s, contacts have other constants, and
        contact forces are neither observed nor penalised. Returns cannot be
        compared with the paper's.
    """

    _ROBOT = {
        "env_id": "Ant-v5",
        "hidden_positions": 2,
        "control_cost": 0.005,
        "survival_reward": 0.05,
        "heights": (0.2, 1.0),
    }

    def sample_tasks(self, count: int, seed: StatelessSeed) -> Tasks:
        return _forward_or_backward(count, seed)

    def _forward_reward(self, velocity, goal):
        return goal * velocity


def _forward_or_backward(count, seed):
    uniform = tf.random.stateless_uniform([count], seed)
    return tf.where(uniform < 0.5, -1.0, 1.0)
