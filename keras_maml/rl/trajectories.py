"""What was seen, done and rewarded in some episodes."""

from typing import Any
from typing import NamedTuple

import numpy as np

from keras_maml.rl.environments.environment import Environment


class Trajectories(NamedTuple):
    """Episodes of one task, or of many with an axis of tasks in front.

    With letters N = episodes, H = steps of the longest one:

    Attributes:
        observations: `(N, H, *observation_shape)`, what each step began with.
        actions: `(N, H, *actions.shape)`, as the policy drew them.
        rewards: `(N, H)`.
        valid: `(N, H)`, 1 for steps that were taken and 0 after the end of an
            episode. What stands in the other arrays there does not count.

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

    observations: Any
    actions: Any
    rewards: Any
    valid: Any


def mean_returns(trajectories: Trajectories) -> np.ndarray:
    """Each task's mean of the episodes' sums of rewards, `(T,)`."""
    return trajectories.rewards.sum(-1).mean(-1)


def check_trajectories(
    trajectories: Trajectories, environment: Environment
) -> Trajectories:
    """Trajectories of one task as arrays, or a `ValueError`.

    Args:
        trajectories: a `Trajectories`.
        environment: the `Environment` whose spaces they must fit.

    Returns:
        A `Trajectories` of numpy arrays, filled up to the horizon.
    """
    if not isinstance(trajectories, Trajectories):
        raise ValueError(
            "`trajectories` must be a `keras_maml.rl.Trajectories`, or a list "
            f"of them. Received: trajectories={trajectories!r}"
        )
    actions = environment.actions
    arrays = Trajectories(
        np.asarray(trajectories.observations, "float32"),
        np.asarray(trajectories.actions),
        np.asarray(trajectories.rewards, "float32"),
        np.asarray(trajectories.valid, "float32"),
    )
    steps = arrays.rewards.shape
    wanted = Trajectories(
        (*steps, *environment.observation_shape),
        (*steps, *actions.shape),
        steps,
        steps,
    )
    received = Trajectories(*(array.shape for array in arrays))
    if len(steps) != 2 or received != wanted or steps[1] > environment.horizon:
        raise ValueError(
            "`trajectories` must have the shapes (N, H, "
            f"*{environment.observation_shape}), (N, H, *{actions.shape}), "
            f"(N, H) and (N, H), with H at most {environment.horizon}. "
            f"Received: shapes {received}"
        )
    valid = arrays.valid
    if np.any((valid != 0) & (valid != 1)) or np.any(np.diff(valid) > 0):
        raise ValueError(
            "`trajectories.valid` must be 1 for the steps of an episode and 0 "
            f"from its end on. Received: valid={valid}"
        )
    taken = valid.sum(1)
    if steps[0] < 2 or not np.all(taken > 0):
        raise ValueError(
            "`trajectories` must have at least two episodes, and each at least "
            f"one step. Received: episodes with {taken.tolist()} steps"
        )
    arrays = Trajectories(
        *(
            np.where(valid.reshape(*steps, *[1] * (a.ndim - 2)) > 0, a, 0)
            for a in arrays
        )
    )
    for name, array in arrays._asdict().items():
        if not np.all(np.isfinite(array)):
            raise ValueError(
                "`trajectories` must be finite numbers. Received: "
                f"trajectories.{name} with {np.sum(~np.isfinite(array))} that "
                "are not"
            )
    actions.check_actions(arrays.actions)
    missing = environment.horizon - steps[1]
    return Trajectories(
        *(
            np.pad(
                array.astype(dtype),
                [(0, 0), (0, missing)] + [(0, 0)] * (array.ndim - 2),
            )
            for array, dtype in zip(
                arrays, ("float32", actions.dtype, "float32", "float32")
            )
        )
    )
