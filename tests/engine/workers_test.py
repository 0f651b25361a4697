"""What each worker gets of the data, and what is refused."""

import numpy as np
import pytest
import tensorflow as tf

import keras_maml
from keras_maml import keras_distribution
from keras_maml.engine import workers
from keras_maml.streams import stream_of
from tests.sample_models import regression_batch
from tests.sample_models import regression_model


@pytest.fixture
def meta_model(monkeypatch):
    """A model that believes that it belongs to several workers."""
    meta_model = regression_model()
    monkeypatch.setattr(
        keras_distribution,
        "strategy_of_workers",
        lambda model: tf.distribute.get_strategy(),
    )
    return meta_model


def part_of_worker(dataset, worker, number, replicas):
    context = tf.distribute.InputContext(number, worker, replicas)
    return workers.own_part(stream_of(dataset), context)


@pytest.mark.parametrize("tasks", [4, 5])
def test_workers_share_each_meta_batch(tasks):
    dataset = keras_maml.tasks.Sinusoid(k_shot=2).batch(tasks, 11, start=3)
    parts = [part_of_worker(dataset, i, 2, 2) for i in range(2)]
    assert [int(part.cardinality()) for part in parts] == [3, 3]
    for (_, y), (_, first), (_, second) in zip(dataset, *parts, strict=True):
        np.testing.assert_array_equal(tf.concat([first, second], 0), y)


def test_the_replicas_of_a_worker_take_turns():
    dataset = keras_maml.tasks.Sinusoid(k_shot=2).batch(4)
    parts = [part_of_worker(dataset, i, 2, 4) for i in range(2)]
    assert all(p.cardinality() == tf.data.INFINITE_CARDINALITY for p in parts)
    iterators = [iter(part) for part in parts]
    for _, y in dataset.take(2):
        shares = [next(i)[1] for i in iterators for _ in range(2)]
        np.testing.assert_array_equal(tf.concat(shares, 0), y)


def test_each_replica_needs_a_task():
    dataset = keras_maml.tasks.Sinusoid().batch(3)
    with pytest.raises(ValueError, match="of 3 tasks and 4 replicas"):
        part_of_worker(dataset, 0, 4, 4)


def test_only_workers_are_asked_for_their_data():
    x, y = regression_batch()
    # Arrays that Keras shuffles.
    regression_model().fit(x, y, verbose=0)


def test_arrays_must_not_be_shuffled(meta_model):
    x, y = regression_batch()
    with pytest.raises(ValueError, match="need `shuffle=False`.* shuffle=True"):
        meta_model.fit(x, y)
    # This one splits them itself.
    history = meta_model.fit(
        x, y, validation_data=(x, y), shuffle=False, verbose=0
    )
    assert history.history


def test_a_generator_is_refused(meta_model):
    def batches():
        yield regression_batch()

    with pytest.raises(ValueError, match="cannot share .* x=<generator"):
        meta_model.fit(batches())


class Strategy:
    """One that distributes nothing."""

    def experimental_distribute_dataset(self, dataset):
        return dataset


def test_tensorflow_splits_other_datasets_by_their_elements():
    def policy(dataset):
        dataset = workers.distributed_dataset(dataset, Strategy())
        return dataset.options().experimental_distribute.auto_shard_policy

    policies = tf.data.experimental.AutoShardPolicy
    dataset = tf.data.Dataset.from_tensors(regression_batch())
    assert policy(dataset) == policies.DATA
    # A user who has split the data says so.
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = policies.OFF
    assert policy(dataset.with_options(options)) == policies.OFF
