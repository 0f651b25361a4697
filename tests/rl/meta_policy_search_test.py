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
    # A further `fit` begins anew, where it is told to.
    assert train(resumed, 1).epoch == [0]
    assert int(resumed.iteration) == 4


def test_config():
    meta_policy = search(
        rl.TabularMDP(3, 2, 4),
        inner_optimizer=keras_maml.inner_optimizers.SGD(
            keras_maml.inner_optimizers.LearnedRate(0.2)
        ),
        inner_steps=2,
        meta_gradient="first_order",
        adapted_weights="head",
        surrogate="dice",
        outer_update=rl.PPO(
            keras.optimizers.schedules.CosineDecay(1e-3, 10), steps=2
        ),
        discount=0.9,
        gae_lambda=0.8,
        seed=3,
        trainable=False,
        dtype="mixed_bfloat16",
        name="searched",
    )
    config = meta_policy.get_config()
    # Keras empties what it is given.
    again = rl.MetaPolicySearch.from_config(copy.deepcopy(config))
    assert again.get_config() == config
    assert not again.trainable
    assert again.dtype_policy.name == "mixed_bfloat16"
    assert again.name == "searched"


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
    history = meta_policy._untracked.learner.act(
        meta_policy.meta_model._theta(),
        goals,
        inner_steps,
        3,
        tf.constant([0, 1], tf.int64),
    )
    trajectories, experience = history[-1]
    np.testing.assert_allclose(
        trajectories.actions[1], steps[-1].actions, rtol=1e-5, atol=1e-6
    )
    outputs = policy(experience["observations"][1])
    for a, b in zip(
        tf.nest.flatten(outputs), tf.nest.flatten(experience["outputs"])
    ):
        np.testing.assert_allclose(a, b[1], rtol=1e-4, atol=1e-6)
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
    for name in ("format", "input_signature", "opset_version"):
        with pytest.raises(ValueError, match=f"Received: .*{name}='onnx'"):
            meta_policy.export(str(tmp_path / "other"), **{name: "onnx"})


@pytest.mark.parametrize(
    "settings",
    [
        {"inner_steps": 0},
        {"inner_steps": 2, "meta_gradient": "first_order"},
        {"adapted_weights": "head"},
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
        {"adapted_weights": "context"},
    ],
    ids=["none", "first_order", "head", "adam", "learned", "context"],
)
def test_the_axes_of_meta_model_are_those_of_policies(settings):
    environment = rl.GoalVelocity(horizon=6)
    policy = rl.mlp_policy(environment, (6,))
    if settings.get("adapted_weights") == "context":
        policy = with_context()
    meta_policy = rl.MetaPolicySearch(
        policy,
        environment,
        outer_update=rl.PPO(steps=1),
        episodes=3,
        **settings,
    )
    before = weights(meta_policy)
    train(meta_policy)
    # All that the outer loop trains, and the count of iterations.
    for variable, old in zip(meta_policy.variables, before, strict=True):
        assert np.any(variable.numpy() != old) != ("context" in variable.path)


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "float64"])
def test_policies_of_another_precision(dtype):
    if dtype == "float64":
        keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)
    meta_policy = search(outer_update=rl.TRPO(cg_steps=1))
    keras.config.set_dtype_policy("float32")
    history = train(meta_policy).history
    assert np.all(np.isfinite(list(history.values())))
    assert history["improvement"][0] > 0


def test_float16_is_refused():
    keras.config.set_dtype_policy("mixed_float16")
    with pytest.raises(ValueError, match="must not compute in float16"):
        search()


def test_settings_that_change_are_heeded():
    meta_policy = search(outer_update=rl.PPO(steps=1))
    goals = [0.5, -0.5]
    train(meta_policy)
    first = meta_policy.collect(goals)
    meta_policy.episodes = 4
    assert meta_policy.collect(goals)[1].rewards.shape == (2, 4, 6)
    meta_policy.episodes = 3
    meta_policy.policy.get_layer("mean").trainable = False
    frozen = meta_policy.policy.get_layer("mean").get_weights()
    assert np.any(meta_policy.collect(goals)[1].actions != first[1].actions)
    # Another sampler, and other weights to train.
    meta_policy.fit(meta_policy.environment.tasks(2), verbose=0)
    for a, b in zip(frozen, meta_policy.policy.get_layer("mean").get_weights()):
        np.testing.assert_array_equal(a, b)
    equal = rl.GoalVelocity(horizon=6)
    meta_policy.fit(equal.tasks(2), verbose=0)


def test_first_order_until():
    meta_policy = search(outer_update=rl.PPO(steps=1))
    exact, other = (search(outer_update=rl.PPO(steps=1)) for _ in range(2))
    other.meta_model.meta_gradient = keras_maml.meta_gradients.FirstOrder()
    train(meta_policy, 1, callbacks=[keras_maml.callbacks.FirstOrderUntil(1)])
    train(other)
    assert_same(meta_policy, other)
    train(exact)
    assert any(np.any(a != b) for a, b in zip(weights(exact), weights(other)))


def test_regularisers_count_in_the_outer_loop():
    environment = rl.GoalVelocity(horizon=6)
    losses = []
    for strength in (0.0, 1e3):
        policy = rl.mlp_policy(environment, (6,))
        kernel = policy.layers[1].kernel
        kernel.regularizer = keras.regularizers.L2(strength)
        meta_policy = rl.MetaPolicySearch(
            policy,
            environment,
            inner_steps=0,
            outer_update=rl.PPO(1e-3, steps=1),
            episodes=3,
        )
        before = policy.layers[1].get_weights()[0]
        train(meta_policy)
        after = policy.layers[1].get_weights()[0]
        losses.append(np.sum(after**2) - np.sum(before**2))
    assert losses[1] < 0
    assert losses[1] < losses[0]


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


def with_context():
    x = keras.Input((2,))
    h = keras.layers.Concatenate()([x, keras_maml.ContextParameters(3)(x)])
    return gaussian_heads(x, keras.layers.Dense(4, activation="tanh")(h))


def with_dropout():
    x = keras.Input((2,))
    return gaussian_heads(x, keras.layers.Dropout(0.5)(x))


def gaussian_heads(x, h):
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
        ({"outer_update": "trpo"}, "`outer_update` must be.*'trpo'"),
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


def test_bad_training():
    meta_policy = search()
    other = rl.GoalVelocity(horizon=7).tasks(2)
    with pytest.raises(ValueError, match="`task_sampler` must be one of this"):
        meta_policy.fit(other)
    with pytest.raises(ValueError, match="`iterations`.*iterations=0"):
        train(meta_policy, 0)
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        with pytest.raises(ValueError, match="one device.*2 replicas"):
            train(meta_policy)


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
        with pytest.raises(ValueError, match="`tasks` must be such as"):
            meta_policy.collect(bad)
    for settings, message in (
        ({"inner_steps": -1}, "`inner_steps`"),
        ({"episodes": 0}, "`episodes`"),
        ({"seed": -1}, "`seed`"),
    ):
        with pytest.raises(ValueError, match=message):
            meta_policy.collect(goals, **settings)
