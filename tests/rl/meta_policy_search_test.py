"""MetaPolicySearch: training, resuming, adapting, exporting, bad input."""

import copy

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_maml
from keras_maml import rl
from keras_maml.rl.returns import mean_returns


def search(environment=None, hidden=(6,), **kwargs):
    if environment is None:
        environment = rl.GoalVelocity(horizon=6)
    return rl.MetaPolicySearch(
        rl.mlp_policy(environment, hidden),
        environment,
        **{"episodes": 3, **kwargs},
    )


def train(meta_policy, iterations=1, **kwargs):
    sampler = meta_policy.environment.tasks(4, seed=5)
    return meta_policy.fit(sampler, iterations, verbose=0, **kwargs)


def weights(meta_policy):
    return [v.numpy() for v in meta_policy.variables]


def assert_same(a, b):
    for i, j in zip(weights(a), weights(b), strict=True):
        np.testing.assert_array_equal(i, j)


def task_of(trajectories, task):
    return rl.Trajectories(*(array[task] for array in trajectories))


def test_what_is_saved_goes_on_as_if_nothing_had_been(tmp_path):
    # PPO has an optimizer with a state of its own.
    update = rl.PPO(steps=2)
    whole = search(outer_update=update, inner_optimizer=0.2)
    history = train(whole, 3).history
    half = search(outer_update=update, inner_optimizer=0.2)
    train(half, 2)
    half.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert_same(half, loaded)
    again = train(loaded, 1).history
    assert_same(whole, loaded)
    assert int(loaded.iteration) == 3
    for key, values in history.items():
        assert values[-1] == again[key][-1]
    assert {"return_0", "return_1", "kl", "improvement"} <= set(history)


def test_training_that_was_interrupted_is_resumed(tmp_path):
    class Interruption(Exception):
        pass

    class Interrupt(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise Interruption

    def backup():
        return keras.callbacks.BackupAndRestore(tmp_path / "backup")

    whole, broken, resumed = (
        search(outer_update=rl.PPO(steps=1)) for _ in range(3)
    )
    train(whole, 3)
    with pytest.raises(Interruption):
        train(broken, 3, callbacks=[backup(), Interrupt()])
    history = train(resumed, 3, callbacks=[backup()])
    assert history.epoch == [2]
    assert_same(whole, resumed)


def test_config():
    meta_policy = search(
        rl.TabularMDP(3, 2, 4),
        inner_optimizer=keras_maml.inner_optimizers.SGD(
            keras_maml.inner_optimizers.LearnedRate(0.2)
        ),
        inner_steps=2,
        meta_gradient="first_order",
        adapt="head",
        surrogate="dice",
        outer_update=rl.PPO(
            keras.optimizers.schedules.CosineDecay(1e-3, 10), steps=2
        ),
        discount=0.9,
        gae_lambda=0.8,
        seed=3,
    )
    config = meta_policy.get_config()
    # Keras empties what it is given.
    again = rl.MetaPolicySearch.from_config(copy.deepcopy(config))
    assert again.get_config() == config


@pytest.mark.parametrize("inner_steps", [1, 2])
@pytest.mark.parametrize(
    "environment", [rl.GoalVelocity(6), rl.TabularMDP(3, 2, 6)]
)
def test_adapt_is_what_collecting_does(environment, inner_steps):
    meta_policy = search(environment, inner_optimizer=0.5)
    goals = environment.tasks(2).sample(0)
    collected = meta_policy.collect(goals, inner_steps)
    steps = [task_of(t, 1) for t in collected]
    policy = meta_policy.adapt(steps[:-1])
    # The actions after the last step were drawn by the policy that `adapt`
    # gives: its outputs there, moved by the same noise.
    width = len(meta_policy.policy.trainable_variables)
    experience = meta_policy._act(
        meta_policy.meta_model._theta(),
        goals,
        inner_steps,
        3,
        tf.constant([0, 1], tf.int64),
    )
    trajectories, step = experience[-1]
    np.testing.assert_allclose(
        trajectories.actions[1], steps[-1].actions, rtol=1e-5, atol=1e-6
    )
    outputs = policy(step["observations"][1])
    for a, b in zip(tf.nest.flatten(outputs), tf.nest.flatten(step["outputs"])):
        np.testing.assert_allclose(a, b[1], rtol=1e-4, atol=1e-6)
    assert width == len(policy.trainable_variables)
    for a, b in zip(policy.get_weights(), meta_policy.policy.get_weights()):
        assert np.any(a != b)
    if inner_steps == 1:
        one = meta_policy.adapt(steps[0])
        for a, b in zip(policy.get_weights(), one.get_weights()):
            np.testing.assert_array_equal(a, b)


def test_short_episodes_are_as_good_as_padded_ones():
    environment = rl.PointNavigation(horizon=8)
    meta_policy = search(environment)

    def trajectories(steps):
        rng = np.random.default_rng(0)
        valid = np.zeros((3, steps))
        valid[:, :5] = 1
        garbage = 7 * rng.random((3, steps, 2))
        return rl.Trajectories(
            np.where(valid[..., None], 0.1, garbage),
            np.where(valid[..., None], np.arange(steps)[:, None], garbage),
            np.where(valid, np.arange(steps)[None] % 3, 5.0 * rng.random()),
            valid,
        )

    # What stands after the end of an episode does not count.
    short, padded = (meta_policy.adapt(trajectories(steps)) for steps in (5, 8))
    for a, b in zip(short.get_weights(), padded.get_weights()):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "environment", [rl.GoalVelocity(6), rl.TabularMDP(3, 2, 6)]
)
def test_export(tmp_path, environment):
    meta_policy = search(environment, inner_optimizer=0.5)
    meta_policy.export(str(tmp_path / "policy"), verbose=False)
    served = tf.saved_model.load(str(tmp_path / "policy"))
    goals = environment.tasks(1).sample(0)
    trajectories = task_of(meta_policy.collect(goals, 0)[0], 0)
    query = trajectories.observations[0]
    expected = meta_policy.adapt(trajectories)(query)
    outputs = served.signatures["serving_default"](
        **{k: tf.constant(v) for k, v in trajectories._asdict().items()},
        query_observations=tf.constant(query),
    )
    direct = served.serve(*map(tf.constant, trajectories), tf.constant(query))
    for a, b in zip(tf.nest.flatten(direct), tf.nest.flatten(expected)):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    assert len(outputs) == len(tf.nest.flatten(expected))
    before = served.act(tf.constant(query))
    for a, b in zip(
        tf.nest.flatten(before), tf.nest.flatten(meta_policy(query))
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="`format=.*Received: format='onnx'"):
        meta_policy.export(str(tmp_path / "other"), format="onnx")


@pytest.mark.parametrize(
    "settings",
    [
        {"inner_steps": 0},
        {"inner_steps": 2, "meta_gradient": "first_order"},
        {"adapt": "head"},
        {
            "inner_optimizer": keras_maml.inner_optimizers.Adam(0.01),
            "surrogate": "dice",
        },
        {
            "inner_optimizer": keras_maml.inner_optimizers.SGD(
                keras_maml.inner_optimizers.LearnedRate(0.1, per="weight")
            ),
            "surrogate": "score_function",
        },
    ],
    ids=str,
)
def test_the_axes_of_meta_model_are_those_of_policies(settings):
    meta_policy = search(outer_update=rl.PPO(steps=1), **settings)
    before = weights(meta_policy)
    train(meta_policy)
    # All that the outer loop trains, and the count of iterations.
    for a, b in zip(before, weights(meta_policy), strict=True):
        assert np.any(a != b)


def test_returns_of_held_out_tasks():
    meta_policy = search()
    goals = meta_policy.environment.tasks(5, seed=9).sample(0)
    scores = rl.evaluate_returns(meta_policy, goals, 2, episodes=4, seed=1)
    collected = meta_policy.collect(goals, 2, episodes=4, seed=1)
    assert list(scores) == [0, 1, 2]
    for number, score in scores.items():
        np.testing.assert_allclose(
            score.values, collected[number].rewards.sum(2).mean(1), rtol=1e-5
        )
    assert collected[0].rewards.shape == (5, 4, 6)
    np.testing.assert_array_equal(scores[0].values, mean_returns(collected[0]))


def policy_for(inputs, outputs):
    return keras.Sequential(
        [keras.Input((inputs,)), keras.layers.Dense(outputs)]
    )


def with_dropout():
    x = keras.Input((2,))
    h = keras.layers.Dropout(0.5)(x)
    return keras.Model(
        x,
        {
            "mean": keras.layers.Dense(1)(h),
            "log_std": keras.layers.Dense(1)(h),
        },
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"policy": "mlp"}, "`policy` must be a Keras model.*'mlp'"),
        ({"policy": policy_for(3, 1)}, "observations, of shape"),
        ({"policy": policy_for(2, 1)}, 'a dict of "mean" and "log_std"'),
        ({"policy": with_dropout()}, "dropout"),
        ({"environment": "navigation"}, "`environment` must be"),
        ({"surrogate": "reinforce"}, "`surrogate` must be.*'reinforce'"),
        ({"outer_update": "trpo"}, "`outer_update` must be.*'trpo'"),
        ({"meta_gradient": "reptile"}, "`meta_gradient` must be.*'reptile'"),
        ({"inner_steps": -1}, "`inner_steps`"),
        ({"episodes": 1}, "`episodes`.*at least 2.*episodes=1"),
        ({"discount": 0.0}, "`discount`"),
        ({"discount": 1.5}, "`discount` must be at most 1.*1.5"),
        ({"gae_lambda": -0.1}, "`gae_lambda`"),
        ({"gae_lambda": 2}, "`gae_lambda` must be at most 1"),
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
    with pytest.raises(ValueError, match="logits, with 3 as the last axis"):
        rl.MetaPolicySearch(policy_for(5, 2), rl.TabularMDP(5, 3))


def test_bad_training():
    meta_policy = search()
    other = rl.GoalVelocity(horizon=6).tasks(2)
    with pytest.raises(ValueError, match="`task_sampler` must be one of this"):
        meta_policy.fit(other)
    with pytest.raises(ValueError, match="`iterations`.*iterations=0"):
        train(meta_policy, 0)


class NoGoal(rl.Environment):
    observation_shape = (2,)
    actions = rl.ContinuousActions(1)
    horizon = 3


class Strange(rl.GoalVelocity):
    """Rewards that are not numbers."""

    def step(self, state, actions, tasks, seed):
        state, rewards, ended = super().step(state, actions, tasks, seed)
        return state, rewards / 0.0 * 0.0, ended


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
    meta_policy = search(Strange(4))
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="environment's `rewards`"
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
    infinite = good.rewards.copy()
    infinite[0, 0] = np.inf
    for bad, message in (
        ("trajectories", "must be a `keras_maml.rl.Trajectories`"),
        ([], "at least one `Trajectories`"),
        (good._replace(actions=np.zeros((3, 6, 2))), "must have the shapes"),
        (good._replace(rewards=np.zeros(6)), "must have the shapes"),
        (good._replace(valid=ended), r"each at least one step.*\[6.0, 0.0, 6"),
        (rl.Trajectories(*(a[:0] for a in good)), "must have episodes"),
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
    for settings, message in (
        ({"inner_steps": -1}, "`inner_steps`"),
        ({"episodes": 0}, "`episodes`"),
        ({"seed": -1}, "`seed`"),
    ):
        with pytest.raises(ValueError, match=message):
            meta_policy.collect(goals, **settings)
