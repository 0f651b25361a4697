"""MetaPolicySearch: acting, adapting, saving and exporting."""

import copy

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_maml
from keras_maml import rl
from keras_maml.rl.trajectories import mean_returns
from tests.rl.searches import eagerly
from tests.rl.searches import search
from tests.rl.searches import train
from tests.rl.searches import weights
from tests.rl.searches import with_context


def task_of(trajectories, task):
    return rl.Trajectories(*(array[task] for array in trajectories))


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
    history = meta_policy.search_state.learner.act(
        meta_policy.meta_state.theta(),
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
    with eagerly():
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
    means = meta_policy.evaluate(goals, 2, episodes=4, seed=1)
    assert list(means) == ["return_0", "return_1", "return_2"]
    for mean, score in zip(means.values(), scores.values()):
        assert mean == pytest.approx(score.mean, rel=1e-6)


def test_predictions_are_those_of_the_policy_before_it_adapts():
    meta_policy = search()
    seen = np.random.default_rng(0).normal(size=(5, 2)).astype("float32")
    predicted = meta_policy.predict(seen, verbose=0)
    for name, values in meta_policy.policy(seen).items():
        np.testing.assert_allclose(predicted[name], values, rtol=1e-5)


def test_few_traces_of_collect_are_kept():
    """Each is megabytes, and settings may change before each call."""
    meta_policy = search(rl.TabularMDP(3, 2, 4), inner_steps=0)
    state = meta_policy.search_state
    first = state.collector(0, lambda: None)
    for settings in range(20):
        state.collector(settings, lambda: None)
        assert state.collector(0, lambda: None) is first
    assert len(state.collectors) == 8
    assert set(state.collectors) == {0, *range(13, 20)}
