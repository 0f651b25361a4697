"""Trajectories: observations, actions and rewards of some episodes."""

from typing import NamedTuple
from typing import TypeAlias

import numpy as np
import tensorflow as tf

from keras_maml.rl.environments.environment import Environment

Array: TypeAlias = np.ndarray | tf.Tensor


class Trajectories(NamedTuple):
    """Episodes of one task, or of many with an axis of tasks in front.

    With letters N = episodes, H = steps of the longest one:

    Attributes:
        observations: `(N, H, *observation_shape)`, before each step.
        actions: `(N, H, *actions.shape)`, as the policy drew them.
        rewards: `(N, H)`.
        valid: `(N, H)`, 1 for steps that were taken and 0 after the end of an
            episode, where the other arrays do not count.

    Example:

    ```python
    trajectories = keras_maml.rl.Trajectories(
        observations=np.zeros((3, 10, 2)),
        actions=np.zeros((3, 10, 2)),
        rewards=np.zeros((3, 10)),
        valid=np.ones((3, 10)),
    )
    ```
    """

    observations: Array
    actions: Array
    rewards: Array
    valid: Array


def mean_returns(trajectories: Trajectories) -> np.ndarray:
    """The mean return of each task's episodes, not discounted, `(T,)`."""
    return trajectories.rewards.sum(-1).mean(-1)


def check_trajectories(
    trajectories: Trajectories, environment: Environment
) -> Trajectories:
    """Trajectories of one task as arrays, or a `ValueError`.

    Args:
        trajectories: a `Trajectories`.
        environment: the `Environment` whose spaces they must fit.

    Returns:
        A `Trajectories` of numpy arrays, padded to the horizon.
    """
    if not isinstance(trajectories, Trajectories):
        raise ValueError(
            "`trajectories` must be a `keras_maml.rl.Trajectories`, or a list "
            f"of them. Received: trajectories={trajectories!r}"
        )
    arrays = Trajectories(
        np.asarray(trajectories.observations, "float32"),
        np.asarray(trajectories.actions),
        np.asarray(trajectories.rewards, "float32"),
        np.asarray(trajectories.valid, "float32"),
    )
    _check_shapes(arrays, environment)
    _check_valid(arrays.valid)
    # Values after the end of an episode do not count, whatever they are.
    arrays = Trajectories(
        *(
            np.where(
                np.expand_dims(arrays.valid, (*range(2, array.ndim),)) > 0,
                array,
                0,
            )
            for array in arrays
        )
    )
    for name, array in arrays._asdict().items():
        if not np.all(np.isfinite(array)):
            raise ValueError(
                "`trajectories` must be finite numbers. Received: "
                f"trajectories.{name} with {np.sum(~np.isfinite(array))} that "
                "are not"
            )
    environment.actions.check_actions(arrays.actions)
    return _padded(arrays, environment)


def _check_shapes(arrays, environment):
    actions, horizon = environment.actions, environment.horizon
    steps = arrays.rewards.shape
    wanted = Trajectories(
        (*steps, *environment.observation_shape),
        (*steps, *actions.shape),
        steps,
        steps,
    )
    received = Trajectories(*(array.shape for array in arrays))
    if len(steps) != 2 or received != wanted or steps[1] > horizon:
        raise ValueError(
            "`trajectories` must have the shapes (N, H, "
            f"*{environment.observation_shape}), (N, H, *{actions.shape}), "
            f"(N, H) and (N, H), with H at most {horizon}. "
            f"Received: shapes {received}"
        )


def _check_valid(valid):
    if np.any((valid != 0) & (valid != 1)) or np.any(np.diff(valid) > 0):
        raise ValueError(
            "`trajectories.valid` must be 1 for the steps of an episode and 0 "
            f"from its end on. Received: valid={valid}"
        )
    taken = valid.sum(1)
    if len(valid) < 2 or not np.all(taken > 0):
        raise ValueError(
            "`trajectories` must have at least two episodes, and each at least "
            f"one step. Received: episodes with {taken.tolist()} steps"
        )


def _padded(arrays, environment):
    missing = environment.horizon - arrays.rewards.shape[1]
    dtypes = ("float32", environment.actions.dtype, "float32", "float32")
    return Trajectories(
        *(
            np.pad(
                array.astype(dtype),
                [(0, 0), (0, missing)] + [(0, 0)] * (array.ndim - 2),
            )
            for array, dtype in zip(arrays, dtypes)
        )
    )
