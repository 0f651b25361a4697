"""What a search refuses: bad policies, environments, tasks, trajectories."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_maml import rl
from tests.rl.searches import eagerly
from tests.rl.searches import gaussian_heads
from tests.rl.searches import search
from tests.rl.searches import train


def policy_for(inputs, outputs):
    return keras.Sequential(
        [keras.Input((inputs,)), keras.layers.Dense(outputs)]
    )


def with_dropout():
    x = keras.Input((2,))
    return gaussian_heads(x, keras.layers.Dropout(0.5)(x))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"policy": "mlp"}, "`policy` must be a Keras model.*'mlp'"),
        ({"policy": policy_for(3, 1)}, "observations, of shape"),
        ({"policy": policy_for(2, 1)}, 'a dict of "mean" and "log_std"'),
        ({"policy": with_dropout()}, "dropout"),
        (
            {
                "policy": keras.Sequential(
                    [keras.layers.Dense(2), keras.layers.Dropout(0.5)]
                ),
                "environment": rl.TabularMDP(5, 2),
            },
            "dropout",
        ),
        ({"environment": "navigation"}, "`environment` must be"),
        ({"surrogate": "reinforce"}, "`surrogate` must be.*'reinforce'"),
        ({"outer_update": "sgd"}, "`outer_update` must be one of.*'sgd'"),
        ({"meta_gradient": "reptile"}, "`meta_gradient` must be.*'reptile'"),
        ({"inner_steps": -1}, "`inner_steps`"),
        ({"episodes": 1}, "`episodes`.*at least 2.*episodes=1"),
        ({"discount": 0.0}, "`discount`"),
        ({"discount": 1.5}, "`discount`.*at most 1.*1.5"),
        ({"gae_lambda": -0.1}, "`gae_lambda`"),
        ({"gae_lambda": 2}, "`gae_lambda`.*at most 1"),
        ({"seed": -1}, "`seed`"),
    ],
)
def test_bad_settings(settings, message):
    environment = rl.GoalVelocity()
    settings = {
        "policy": rl.mlp_policy(environment, (4,)),
        "environment": environment,
        **settings,
    }
    with pytest.raises(ValueError, match=message):
        rl.MetaPolicySearch(**settings)


def test_a_discrete_policy_has_as_many_logits_as_there_are_actions():
    with pytest.raises(ValueError, match=r"logits, of shape \(batch, 3\)"):
        rl.MetaPolicySearch(policy_for(5, 2), rl.TabularMDP(5, 3))


class NoGoal(rl.Environment):
    observation_shape = (2,)
    actions = rl.ContinuousActions(1)
    horizon = 3


class Strange(rl.GoalVelocity):
    """Rewards that are not numbers."""

    def step(self, state, actions, tasks, seed):
        state, rewards, ended = super().step(state, actions, tasks, seed)
        return state, rewards / 0.0 * 0.0, ended


class Wide(rl.GoalVelocity):
    """Rewards of a shape that would be broadcast."""

    def step(self, state, actions, tasks, seed):
        state, rewards, ended = super().step(state, actions, tasks, seed)
        return state, rewards[:, None], ended


class Blind(rl.GoalVelocity):
    def observe(self, state, tasks):
        return state[:, :1]


class OneGoal(rl.GoalVelocity):
    def sample_tasks(self, count, seed):
        return tf.constant(1.0)


def test_bad_environments():
    policy = rl.mlp_policy(rl.GoalVelocity(), (4,))
    with pytest.raises(ValueError, match="no goals to adapt to"):
        rl.MetaPolicySearch(policy, NoGoal())
    no_horizon = rl.GoalVelocity()
    no_horizon.horizon = None
    with pytest.raises(ValueError, match="`environment.horizon`.*None"):
        rl.MetaPolicySearch(policy, no_horizon)
    with pytest.raises(ValueError, match="first axis is the task"):
        OneGoal().tasks(3).sample(0)
    with pytest.raises(
        ValueError, match=r"must return rewards of shape \(B,\)"
    ):
        train(search(Wide(4)))
    with pytest.raises(
        ValueError, match=r"observations of shape \(B, \*\(2,\)"
    ):
        train(search(Blind(4)))
    meta_policy = search(Strange(4))
    with (
        eagerly(),
        pytest.raises(
            tf.errors.InvalidArgumentError, match="environment's `rewards`"
        ),
    ):
        train(meta_policy)


def test_bad_trajectories():
    meta_policy = search()
    good = rl.Trajectories(
        np.zeros((3, 6, 2)),
        np.zeros((3, 6, 1)),
        np.zeros((3, 6)),
        np.ones((3, 6)),
    )
    ended = good.valid.copy()
    ended[1] = 0
    late = good.valid.copy()
    late[:, 0] = 0
    infinite = good.rewards.copy()
    infinite[0, 0] = np.inf
    for bad, message in (
        ("trajectories", "must be a `keras_maml.rl.Trajectories`"),
        ([], "at least one `Trajectories`"),
        (good._replace(actions=np.zeros((3, 6, 2))), "must have the shapes"),
        (good._replace(rewards=np.zeros(6)), "must have the shapes"),
        (good._replace(valid=0.5 * good.valid), "`trajectories.valid` must be"),
        (good._replace(valid=late), "`trajectories.valid` must be"),
        (rl.Trajectories(*(a[:1] for a in good)), "at least two episodes"),
        (good._replace(valid=ended), r"each at least one step.*\[6.0, 0.0, 6"),
        (rl.Trajectories(*(a[:0] for a in good)), "at least two episodes"),
        (good._replace(rewards=infinite), "trajectories.rewards with 1 that"),
        ([good, rl.Trajectories(*(a[:2] for a in good))], r"\[3, 2\] episodes"),
    ):
        with pytest.raises(ValueError, match=message):
            meta_policy.adapt(bad)
    with pytest.raises(ValueError, match="with H at most 6"):
        meta_policy.adapt(
            rl.Trajectories(*(np.repeat(a, 2, axis=1) for a in good))
        )
    goals = meta_policy.environment.tasks(2).sample(0)
    for bad in (
        0.5,
        [[0.5], [0.1]],
        {"goal": goals},
        "goals",
    ):
        with pytest.raises(ValueError, match="`tasks` must have the form"):
            meta_policy.collect(bad)
    for settings, message in (
        ({"inner_steps": -1}, "`inner_steps`"),
        ({"episodes": 0}, "`episodes`"),
        ({"seed": -1}, "`seed`"),
    ):
        with pytest.raises(ValueError, match=message):
            meta_policy.collect(goals, **settings)
