"""The data of the workers of a `MultiWorkerMirroredStrategy`."""

import numpy as np
import tensorflow as tf

from keras_maml import keras_distribution
from keras_maml.streams import stream_of


def check_data(meta_model, arguments, shuffle=False):
    """Checks that workers can share each meta-batch.

    Args:
        meta_model: a `MetaModel`.
        arguments: dict, the arguments of `fit`, `evaluate` or `predict`.
        shuffle: bool. Whether Keras would shuffle arrays.

    Raises:
        ValueError: if the model belongs to several workers, and they cannot.
    """
    if keras_distribution.strategy_of_workers(meta_model) is None:
        return
    for name in ("x", "validation_data"):
        data = arguments.get(name)
        if isinstance(data, tf.data.Dataset | tf.distribute.DistributedDataset):
            continue
        if not all(
            isinstance(leaf, np.ndarray | tf.Tensor | None)
            for leaf in tf.nest.flatten(data)
        ):
            raise ValueError(
                "With several workers, the data must be a `tf.data.Dataset` or "
                "arrays, because workers cannot share what a generator yields. "
                f"Received: {name}={data!r}"
            )
        if shuffle and name == "x" and data is not None:
            raise ValueError(
                "With several workers, arrays need `shuffle=False`: each "
                "worker would shuffle them in another order. "
                f"Received: shuffle={shuffle}"
            )


def distributed_dataset(dataset, strategy):
    """Gives each worker its part of every meta-batch."""
    stream = stream_of(dataset)
    if stream is not None:
        return strategy.distribute_datasets_from_function(
            lambda context: own_part(stream, context)
        )
    # TensorFlow splits each meta-batch. By default, it would give workers files
    # of their own, of which one may have more than another.
    policies = tf.data.experimental.AutoShardPolicy
    policy = dataset.options().experimental_distribute.auto_shard_policy
    if policy == policies.AUTO:
        options = tf.data.Options()
        options.experimental_distribute.auto_shard_policy = policies.DATA
        dataset = dataset.with_options(options)
    return strategy.experimental_distribute_dataset(dataset)


def own_part(stream, context):
    """Returns the episodes of the replicas of one worker, which take turns.

    Args:
        stream: an `EpisodeStream`.
        context: the `tf.distribute.InputContext` of the worker.
    """
    replicas = context.num_replicas_in_sync
    own = replicas // context.num_input_pipelines
    first = context.input_pipeline_id * own
    parts = [stream.part(first + i, replicas) for i in range(own)]
    if own == 1:
        return parts[0]
    turns = tf.data.Dataset.range(own).repeat()
    dataset = tf.data.Dataset.choose_from_datasets(parts, turns)
    if stream.count is None:
        # Else TensorFlow asks all workers for data before each step.
        endless = tf.data.experimental.assert_cardinality(
            tf.data.INFINITE_CARDINALITY
        )
        dataset = dataset.apply(endless)
    return dataset
