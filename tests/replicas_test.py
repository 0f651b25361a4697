"""Replicas end at the weights and the logs of one device."""

import json
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_maml
from keras_maml.engine.bad_tasks import BadTask
from tests import bad_tasks_on_replicas
from tests import replicated_training
from tests import weightless_on_replicas
from tests.replicated_training import ALGORITHMS
from tests.replicated_training import WEIGHTS
from tests.replicated_training import trained
from tests.sample_models import assert_same
from tests.sample_models import regression_batch
from tests.sample_models import small_mlp

CHECKOUT = pathlib.Path(__file__).absolute().parent.parent


def train(devices, *algorithms):
    """The results of `tests.replicated_training`."""
    return run(replicated_training, str(devices), *algorithms)


def run(program, *arguments):
    """What a program of `tests` prints."""
    done = subprocess.run(
        [sys.executable, "-m", program.__name__, *arguments],
        cwd=CHECKOUT,
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    )
    return json.loads(done.stdout)


def assert_equal(alone, replicated):
    assert alone.keys() == replicated.keys()
    for key in alone:
        for one, other in zip(alone[key], replicated[key], strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)


def test_two_replicas_train_as_one_device():
    assert_equal(*train(2, "maml")["maml"])


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 4])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_replicas_train_as_one_device(devices, algorithm):
    assert_equal(*train(devices, algorithm)[algorithm])


@pytest.mark.slow
def test_sample_weight_counts_in_reptile():
    # The mean over four tasks, of which one alone moves θ, is a quarter of it.
    def weights(**kwargs):
        return trained("reptile", run_eagerly=True, **kwargs)["weights"]

    only_first = np.eye(6, 1, dtype="float32") * 4
    assert_same(
        weights(tasks=slice(4), weights=only_first),
        weights(tasks=slice(1), weights=WEIGHTS * 0 + 1),
        rtol=1e-5,
        atol=1e-6,
    )
    start = small_mlp().get_weights()
    assert_same(weights(weights=0 * WEIGHTS), start, rtol=0)


@pytest.mark.slow
def test_a_replica_without_weight_does_not_dilute_moving_averages():
    alone, replicated, nothing = run(weightless_on_replicas)
    start = [
        variable.value
        for variable in small_mlp(batch_norm=True).non_trainable_variables
        if variable.dtype == "float32"
    ]
    for a, b, c, d in zip(alone, replicated, nothing, start, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-6)
        np.testing.assert_array_equal(c, d)
    assert any(a != c for a, c in zip(alone, nothing))


@pytest.mark.slow
def test_a_bad_task_of_one_replica_stops_all_and_ends_nothing():
    results = run(bad_tasks_on_replicas)
    assert all(r["finite"] for pair in results.values() for r in pair)
    for mode, (first, again) in results.items():
        stops = mode != "skip 1"
        # The second of three steps has the bad tasks.
        assert first["iterations"] == (1 if stops else 3), mode
        assert again == {
            "error": None,
            "iterations": first["iterations"] + 3,
            "finite": True,
        }
    assert (
        "query loss of task 1 of one replica" in results["raise 1"][0]["error"]
    )
    assert results["skip 1"][0]["error"] is None
    assert "would leave no task" in results["skip 4"][0]["error"]


def test_several_steps_in_one_execution_are_refused_on_replicas():
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        meta_model = keras_maml.MetaModel(small_mlp(), task_map="loop")
        meta_model.compile(
            "sgd", "mse", steps_per_execution=2, run_eagerly=True
        )

    def unread():
        pytest.fail("Data were read.")
        yield

    for call in (meta_model.fit, meta_model.evaluate):
        with pytest.raises(ValueError, match="steps_per_execution=2 and 2 rep"):
            call(unread())
    # A single step is taken.
    meta_model.train_on_batch(*regression_batch(tasks=4))
    assert meta_model.optimizer.iterations == 1


def test_a_sum_is_refused_on_replicas():
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        meta_model = keras_maml.MetaModel(small_mlp(), task_map="loop")
        loss = keras.losses.MeanSquaredError(reduction="sum")
        meta_model.compile("sgd", loss)
    x, y = regression_batch(tasks=4)
    with pytest.raises(ValueError, match='`reduction="sum"` grows .* 2 rep'):
        meta_model.fit(x, y, batch_size=4, verbose=0)


def test_eager_replicas_without_a_task_are_refused():
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        meta_model = keras_maml.MetaModel(small_mlp(), task_map="loop")
        meta_model.compile("sgd", "mse", run_eagerly=True)
    x, y = regression_batch(tasks=1)
    with pytest.raises(ValueError, match="a task on each replica.* 0 tasks"):
        meta_model.fit(x, y, batch_size=1, verbose=0)


def test_xla_does_not_compile_the_step_of_several_replicas():
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        meta_model = keras_maml.MetaModel(small_mlp(), task_map="loop")
        meta_model.compile("sgd", "mse", jit_compile=True)
    x, y = regression_batch(tasks=4)
    with pytest.raises(ValueError, match="several replicas.* 2 replicas"):
        meta_model.fit(x, y, batch_size=4, verbose=0)


def test_a_bad_task_of_a_replica_is_no_task_of_the_whole_meta_batch():
    error = BadTask(1, "query loss", replicas=2).error("raise")
    assert "task 1 of one replica's part of a meta-batch" in str(error)
