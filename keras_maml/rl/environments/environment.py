"""What an environment is: many episodes of many tasks, side by side."""

from collections.abc import Sequence
from typing import Any
from typing import TypeAlias

import tensorflow as tf

from keras_maml.rl.actions import ContinuousActions
from keras_maml.rl.actions import DiscreteActions
from keras_maml.settings import Settings
from keras_maml.validation import check_integer
from keras_maml.validation import check_seed

# Tells the random numbers of tasks from others of the same seed, see
# policy_trainer.py and meta_policy_search.py.
_TASKS = 2

# A tensor or any structure of tensors: what `sample_tasks` returns.
Tasks: TypeAlias = Any
# A tensor or any structure of tensors: what `reset` returns.
State: TypeAlias = Any
# Two integers, as TensorFlow's stateless random numbers take them. The library
# makes them from the seeds that users pass.
StatelessSeed: TypeAlias = tf.Tensor | Sequence[int]


class Environment(Settings):
    """Base class: the dynamics that tasks share, and a distribution of goals.

    A task is whatever `sample_tasks` gives: a goal, a tensor or a structure of
    tensors. An environment steps a batch of B episodes at once, each with a
    task of its own; every method is a function of its arguments alone, in
    TensorFlow operations, so that whole roll-outs run inside one `tf.function`.

    Subclasses define the methods below, and keep their arguments as
    attributes for `get_config`.

    Attributes:
        observation_shape: tuple of ints, of one observation.
        actions: a `ContinuousActions` or `DiscreteActions`.
        horizon: int, the steps after which an episode ends in any case.

    Example:

    ```python
    environment = keras_maml.rl.PointNavigation(horizon=10)
    goals = environment.sample_tasks(3, seed=(0, 0))  # (3, 2)
    ```
    """

    observation_shape: tuple[int, ...]
    actions: ContinuousActions | DiscreteActions
    horizon: int

    def sample_tasks(self, count: int, seed: Any) -> Any:
        """Draws tasks.

        Args:
            count: int.
            seed: two integers, as for TensorFlow's stateless random numbers.

        Returns:
            A structure of tensors `(count, ...)`.
        """
        raise NotImplementedError

    def reset(self, tasks: Any, seed: Any) -> Any:
        """Begins an episode of each task.

        Args:
            tasks: structure of tensors `(B, ...)`.
            seed: two integers.

        Returns:
            The states, a structure of tensors `(B, ...)`.
        """
        raise NotImplementedError

    def observe(self, state: Any, tasks: Any) -> Any:
        """What policies see of the states, `(B, *observation_shape)`."""
        raise NotImplementedError

    def step(
        self, state: Any, actions: Any, tasks: Any, seed: Any
    ) -> tuple[Any, Any, Any]:
        """Takes one action in each episode.

        Args:
            state: structure of tensors `(B, ...)`.
            actions: tensor `(B, *actions.shape)`.
            tasks: structure of tensors `(B, ...)`.
            seed: two integers.

        Returns:
            A tuple `(state, rewards, ended)` of the new states, floats `(B,)`
            and bools `(B,)`: whether the episode is over. What happens in it
            after that is ignored.
        """
        raise NotImplementedError

    def tasks(self, count: int, seed: int = 0) -> "TaskSampler":
        """Where `MetaPolicySearch.fit` gets the tasks of an iteration from.

        Args:
            count: int, the tasks of an iteration: the meta-batch.
            seed: int. Defaults to `0`.
        """
        return TaskSampler(self, count, seed)


class TaskSampler:
    """Tasks by number of the iteration: the same ones for the same seed.

    Args:
        environment: an `Environment`.
        count: int, the tasks of an iteration.
        seed: int. Defaults to `0`.

    Raises:
        ValueError: if an argument is not of that form, or the environment has
            no `sample_tasks`.

    Example:

    ```python
    sampler = keras_maml.rl.PointNavigation().tasks(20, seed=0)
    goals = sampler.sample(0)  # (20, 2)
    ```
    """

    def __init__(
        self, environment: Environment, count: int, seed: int = 0
    ) -> None:
        check_environment(environment)
        self.environment = environment
        self.count = check_integer("count", count)
        self.seed = check_seed(seed)

    def sample(self, iteration: Any) -> Any:
        """The tasks of an iteration, a structure of tensors `(count, ...)`.

        Args:
            iteration: int or integer tensor.
        """
        seed = tf.random.experimental.stateless_fold_in(
            tf.constant([self.seed, _TASKS], tf.int64),
            tf.cast(iteration, tf.int64),
        )
        tasks = tf.nest.map_structure(
            tf.convert_to_tensor,
            self.environment.sample_tasks(self.count, seed),
        )
        flat = tf.nest.flatten(tasks)
        if not flat or any(
            not t.shape.rank or t.shape[0] != self.count for t in flat
        ):
            raise ValueError(
                "`sample_tasks(count, seed)` must return tensors whose first "
                f"axis is the task. Received: {tasks!r} for "
                f"count={self.count}"
            )
        return tasks


def check_environment(environment: Any) -> None:
    """Raises `ValueError` if a policy cannot be searched for in it."""
    if not isinstance(environment, Environment):
        raise ValueError(
            "`environment` must be a `keras_maml.rl.Environment`. "
            f"Received: environment={environment!r}"
        )
    if type(environment).sample_tasks is Environment.sample_tasks:
        raise ValueError(
            "`environment` has no goals to adapt to: it does not define "
            f"`sample_tasks`. Received: environment={environment!r}"
        )
    for name, kind in (
        ("observation_shape", tuple),
        ("actions", (ContinuousActions, DiscreteActions)),
    ):
        value = getattr(environment, name, None)
        if not isinstance(value, kind):
            raise ValueError(
                f"`environment.{name}` is missing or of the wrong type. "
                f"Received: environment.{name}={value!r}"
            )
    check_integer("environment.horizon", getattr(environment, "horizon", None))
