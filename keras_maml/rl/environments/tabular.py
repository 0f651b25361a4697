"""Bandits and Markov decision processes with tables."""

from typing import Any

import keras
import tensorflow as tf

from keras_maml.rl.actions import DiscreteActions
from keras_maml.rl.actions import StatelessSeed
from keras_maml.rl.environments.environment import Environment
from keras_maml.rl.environments.environment import State
from keras_maml.rl.environments.environment import Tasks
from keras_maml.validation import check_integer
from keras_maml.validation import check_number


@keras.saving.register_keras_serializable(package="keras_maml")
class TabularMDP(Environment):
    """A finite Markov decision process, whose tables differ between tasks.

    A task is a dict of `"transitions"`, the probabilities of next states
    `(states, actions, states)`, and `"rewards"`, the mean reward
    `(states, actions)`. Transitions are drawn from a symmetric Dirichlet
    distribution with parameter 1. Mean rewards are uniform in [0, 1], and
    rewards are normal around their mean. Episodes begin in state 0, and
    observations are one-hot states. With one state it is a bandit.

    Args:
        states: int. Defaults to `5`.
        actions: int, at least 2. Defaults to `3`.
        horizon: int, the steps of an episode. Defaults to `10`.
        noise: float, the standard deviation of rewards. Defaults to `0.0`.

    Raises:
        ValueError: if an argument is not of that form.

    Example:

    ```python
    bandit = keras_maml.rl.TabularMDP(states=1, actions=5, horizon=10)
    ```

    Reference:
        Duan et al., 2016, "RL²: Fast Reinforcement Learning via Slow
        Reinforcement Learning", sections 3.1 and 3.2. Deviations: the paper's
        bandits have rewards of 0 or 1 with a uniform mean, and its processes
        have rewards with variance 1 around normal means.
    """

    actions: DiscreteActions

    def __init__(
        self,
        states: int = 5,
        actions: int = 3,
        horizon: int = 10,
        noise: float = 0.0,
    ) -> None:
        self.states = check_integer("states", states)
        self.actions = DiscreteActions(
            check_integer("actions", actions, minimum=2)
        )
        self.horizon = check_integer("horizon", horizon)
        self.noise = check_number("noise", noise, minimum=0)
        self.observation_shape = (self.states,)

    def sample_tasks(self, count: int, seed: StatelessSeed) -> Tasks:
        shape = [count, self.states, self.actions.count]
        seeds = tf.random.split(seed, 2)
        # Exponential numbers over their sum are Dirichlet with parameter 1.
        exponential = -tf.math.log(
            tf.random.stateless_uniform(
                [*shape, self.states], seeds[0], minval=1e-20
            )
        )
        return {
            "transitions": exponential
            / tf.reduce_sum(exponential, -1, keepdims=True),
            "rewards": tf.random.stateless_uniform(shape, seeds[1]),
        }

    def reset(self, tasks: Tasks, seed: StatelessSeed) -> State:
        return tf.zeros([tf.shape(tasks["rewards"])[0]], tf.int32)

    def observe(self, state: State, tasks: Tasks) -> tf.Tensor:
        return tf.one_hot(state, self.states)

    def step(
        self,
        state: State,
        actions: tf.Tensor,
        tasks: Tasks,
        seed: StatelessSeed,
    ) -> tuple[State, tf.Tensor, tf.Tensor]:
        seeds = tf.random.split(seed, 2)
        at = tf.stack([state, actions], -1)
        rewards = tf.gather_nd(tasks["rewards"], at, batch_dims=1)
        if self.noise:
            rewards += tf.random.stateless_normal(
                tf.shape(rewards), seeds[0], stddev=self.noise
            )
        probabilities = tf.gather_nd(tasks["transitions"], at, batch_dims=1)
        drawn = tf.random.stateless_uniform(tf.shape(rewards), seeds[1])
        # Rounding may leave probability over: the last state gets it.
        passed = tf.cumsum(probabilities, axis=-1)[:, :-1] <= drawn[:, None]
        state = tf.reduce_sum(tf.cast(passed, tf.int32), -1)
        return state, rewards, tf.zeros_like(rewards, tf.bool)

    def get_config(self) -> dict[str, Any]:
        return {
            "states": self.states,
            "actions": self.actions.count,
            "horizon": self.horizon,
            "noise": self.noise,
        }
