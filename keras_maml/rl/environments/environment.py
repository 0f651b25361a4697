"""Environment: steps many episodes of many tasks at once."""

from typing import Any
from typing import TypeAlias

import tensorflow as tf

from keras_maml.rl.actions import ContinuousActions
from keras_maml.rl.actions import DiscreteActions
from keras_maml.rl.actions import StatelessSeed
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


class Environment(Settings):
    """Base class: the dynamics that tasks share, and a distribution of goals.

    A task is a goal: a tensor or a structure of tensors. To draw goals, call
    `environment.tasks(count, seed=1).sample(0)`.

    Subclasses define `sample_tasks`, `reset`, `observe` and `step`, and keep
    their arguments as attributes for `get_config`. The library calls these
    methods for a batch of B episodes, each with its task. They are functions
    of their arguments alone, in TensorFlow operations, so whole roll-outs run
    inside one `tf.function`. Their `seed` is a stateless seed of TensorFlow's,
    two integers, which they pass to `tf.random.stateless_uniform` and the
    like.

    Attributes:
        observation_shape: tuple of ints, of one observation.
        actions: a `ContinuousActions` or `DiscreteActions`.
        horizon: int, the most steps of an episode.

    Example:

    ```python
    environment = keras_maml.rl.PointNavigation(horizon=10)
    goals = environment.tasks(3, seed=0).sample(0)  # (3, 2)
    ```
    """

    observation_shape: tuple[int, ...]
    actions: ContinuousActions | DiscreteActions
    horizon: int

    def sample_tasks(self, count: int, seed: StatelessSeed) -> Tasks:
        """Draws tasks. Subclasses define it; users call `tasks`.

        Args:
            count: int.
            seed: a stateless seed of TensorFlow's, two integers.

        Returns:
            A structure of tensors `(count, ...)`.
        """
        raise NotImplementedError

    def reset(self, tasks: Tasks, seed: StatelessSeed) -> State:
        """Begins an episode of each task.

        Args:
            tasks: structure of tensors `(B, ...)`.
            seed: a stateless seed of TensorFlow's, two integers.

        Returns:
            The states, a structure of tensors `(B, ...)`.
        """
        raise NotImplementedError

    def observe(self, state: State, tasks: Tasks) -> tf.Tensor:
        """The observations of the states, `(B, *observation_shape)`."""
        raise NotImplementedError

    def step(
        self,
        state: State,
        actions: tf.Tensor,
        tasks: Tasks,
        seed: StatelessSeed,
    ) -> tuple[State, tf.Tensor, tf.Tensor]:
        """Takes one action in each episode.

        Args:
            state: structure of tensors `(B, ...)`.
            actions: tensor `(B, *actions.shape)`.
            tasks: structure of tensors `(B, ...)`.
            seed: a stateless seed of TensorFlow's, two integers.

        Returns:
            A tuple `(state, rewards, ended)`: the new states, floats `(B,)`,
            and bools `(B,)` that are true where an episode is over. Later
            steps of that episode are ignored.
        """
        raise NotImplementedError

    def tasks(self, count: int, seed: int = 0) -> "TaskSampler":
        """The meta-batches of tasks that `MetaPolicySearch.fit` trains on.

        Args:
            count: int, the tasks of a meta-batch.
            seed: int from 0 to 2³² − 1. Defaults to `0`.
        """
        return TaskSampler(self, count, seed)


class TaskSampler:
    """Draws meta-batches of tasks, which their index and a seed determine.

    Args:
        environment: an `Environment`.
        count: int, the tasks of a meta-batch.
        seed: int from 0 to 2³² − 1. Defaults to `0`.

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

    def sample(self, index: int | tf.Tensor) -> Tasks:
        """Draws a meta-batch: a structure of tensors `(count, ...)`.

        Args:
            index: int or integer tensor, the number of the meta-batch. In
                `fit` it is the number of earlier steps.
        """
        seed = tf.random.experimental.stateless_fold_in(
            tf.constant([self.seed, _TASKS], tf.int64),
            tf.cast(index, tf.int64),
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


def check_environment(environment: object) -> None:
    """Raises `ValueError` if no policy can be trained in it."""
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
