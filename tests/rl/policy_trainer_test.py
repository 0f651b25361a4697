"""Training, and going on where it stopped."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_maml
from keras_maml import rl
from tests.rl.searches import assert_same
from tests.rl.searches import eagerly
from tests.rl.searches import search
from tests.rl.searches import train

SETTINGS = {"inner_optimizer": 0.2}


class Interruption(Exception):
    pass


class Interrupt(keras.callbacks.Callback):
    """Stops in the middle of an epoch."""

    def on_train_batch_end(self, batch, logs=None):
        if self.model.iteration == 5:
            raise Interruption


def backup(folder):
    return keras.callbacks.BackupAndRestore(folder / "backup")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One model trained in three ways from the same weights.

    Three epochs of two steps; the same, interrupted in the last epoch; and
    four epochs of one step. Tracing once saves most of the time.
    """
    folder = tmp_path_factory.mktemp("runs")
    # PPO's optimizer has a state of its own.
    model = search(**SETTINGS)
    model.save_weights(folder / "start.weights.h5")
    with pytest.raises(Interruption):
        train(
            model,
            3,
            steps_per_epoch=2,
            callbacks=[backup(folder), Interrupt()],
        )
    model.load_weights(folder / "start.weights.h5")
    single = train(model, 4)
    model.save(folder / "half.keras")
    model.load_weights(folder / "start.weights.h5")
    whole = train(model, 3, steps_per_epoch=2)
    return folder, model, whole, single


@pytest.mark.slow
def test_an_epoch_logs_the_means_of_its_steps(runs):
    _, model, whole, single = runs
    assert set(whole.history) == {"return_0", "return_1", "improvement", "kl"}
    assert whole.epoch == [0, 1, 2]
    assert int(model.iteration) == 6
    for name, values in whole.history.items():
        pairs = np.reshape(single.history[name], (2, 2))
        assert pairs[0, 0] != pairs[0, 1]
        np.testing.assert_allclose(values[:2], pairs.mean(1), rtol=1e-5)


def test_what_is_saved_goes_on_as_if_nothing_had_been(runs):
    folder, model, whole, _ = runs
    loaded = keras.models.load_model(folder / "half.keras")
    assert int(loaded.iteration) == 4
    last = train(loaded, 3, steps_per_epoch=2, initial_epoch=2)
    assert last.epoch == [2]
    assert_same(model, loaded)
    for name, values in whole.history.items():
        assert last.history[name] == values[2:]


@pytest.mark.slow
def test_training_that_was_interrupted_is_resumed(runs):
    folder, model, _, _ = runs
    resumed = search(**SETTINGS)
    history = train(resumed, 3, steps_per_epoch=2, callbacks=[backup(folder)])
    assert history.epoch == [2]
    assert_same(model, resumed)
    # A further `fit` begins with epoch 0 again.
    assert train(resumed, 1).epoch == [0]
    assert int(resumed.iteration) == 7


@pytest.mark.slow
def test_settings_that_change_are_heeded():
    meta_policy = search()
    goals = [0.5, -0.5]
    train(meta_policy)
    first = meta_policy.collect(goals)
    meta_policy.episodes = 4
    assert meta_policy.collect(goals)[1].rewards.shape == (2, 4, 6)
    meta_policy.episodes = 3
    meta_policy.policy.get_layer("mean").trainable = False
    frozen = meta_policy.policy.get_layer("mean").get_weights()
    assert np.any(meta_policy.collect(goals)[1].actions != first[1].actions)
    # Other weights to train, and a sampler of an equal environment.
    meta_policy.fit(rl.GoalVelocity(horizon=6).tasks(2), verbose=0)
    for a, b in zip(frozen, meta_policy.policy.get_layer("mean").get_weights()):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_first_order_until():
    settings = {"inner_optimizer": 1.0, "outer_update": rl.TRPO(cg_steps=1)}
    meta_policy, exact, other = (search(**settings) for _ in range(3))
    other.meta_model.meta_gradient = keras_maml.meta_gradients.FirstOrder()
    train(meta_policy, 1, callbacks=[keras_maml.callbacks.FirstOrderUntil(1)])
    with eagerly():
        train(other)
        train(exact)
    assert_same(meta_policy, other, rtol=1e-4, atol=1e-7)
    with pytest.raises(AssertionError):
        assert_same(exact, other, rtol=1e-4, atol=1e-7)


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
        with eagerly():
            train(meta_policy)
        after = policy.layers[1].get_weights()[0]
        losses.append(np.sum(after**2) - np.sum(before**2))
    assert losses[1] < 0
    assert losses[1] < losses[0]


class Divergence(rl.OuterUpdate):
    """Moves nothing, and logs how far θ is from what has acted."""

    log_names = ("kl", "mean", "std")

    def update(self, objective, batch, variables, optimizer):
        theta = tf.nest.map_structure(tf.convert_to_tensor, variables)
        _, kl = objective.losses(theta, batch)
        advantages = batch["query"]["advantages"]
        return {
            "kl": kl,
            "mean": tf.reduce_mean(advantages, -1)[0],
            "std": tf.math.reduce_std(advantages, -1)[0],
        }


def test_an_outer_update_sees_the_roll_outs_of_the_adapted_policies():
    meta_policy = search(inner_optimizer=1.0, outer_update=Divergence())
    with eagerly():
        logs = train(meta_policy).history
    # The adapted policies have drawn the actions of the queries.
    assert abs(logs["kl"][0]) < 1e-6
    np.testing.assert_allclose([*logs["mean"], *logs["std"]], [0, 1], atol=1e-5)


class Silent(rl.PPO):
    """Does not name what it logs."""

    log_names = ()


def test_bad_training():
    meta_policy = search()
    other = rl.GoalVelocity(horizon=7).tasks(2)
    with pytest.raises(ValueError, match="`task_sampler` must be one of this"):
        meta_policy.fit(other)
    for name, value in (
        ("epochs", 0),
        ("steps_per_epoch", None),
        ("initial_epoch", -1),
    ):
        with pytest.raises(ValueError, match=f"`{name}`.*{name}={value}"):
            train(meta_policy, **{"epochs": 1, name: value})
    # Python's own error names what `keras.Model.fit` takes and this does not.
    for name in ("x", "batch_size", "validation_data", "class_weight"):
        with pytest.raises(TypeError, match=f"unexpected keyword.*'{name}'"):
            meta_policy.fit(**{name: 1})
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        with pytest.raises(ValueError, match="one device.*2 replicas"):
            train(meta_policy)
    with (
        eagerly(),
        pytest.raises(ValueError, match=r"log_names=\(\).*'improvement'"),
    ):
        train(search(outer_update=Silent()))


def test_batches_of_data_are_refused():
    meta_policy = search()
    with pytest.raises(NotImplementedError, match="call `fit`"):
        meta_policy.train_on_batch(np.zeros((1, 2)))
    with pytest.raises(NotImplementedError, match="call `evaluate`"):
        meta_policy.test_on_batch(np.zeros((1, 2)))
