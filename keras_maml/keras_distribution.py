"""Private names of Keras and TensorFlow about distribution strategies.

`tests/keras_distribution_test.py` has a test for each name. The test says what
breaks when an update of Keras or TensorFlow removes the name.
"""

import keras
import tensorflow as tf


def without_summing(optimizer):
    """Returns an optimizer with the same variables that sums no gradients.

    Under a distribution strategy, an optimizer of Keras sums the gradients of
    the replicas, but only after it has clipped them, accumulated them, and
    looked for infinite ones. The optimizer that this function returns expects
    gradients that are summed already.
    """
    other = object.__new__(type(optimizer))
    other.__dict__.update(optimizer.__dict__)
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        inner = without_summing(optimizer.inner_optimizer)
        other.__dict__["inner_optimizer"] = inner
    # To raise if Keras no longer has the method.
    assert optimizer._all_reduce_sum_gradients
    other.__dict__["_all_reduce_sum_gradients"] = list
    return other


def run_if(condition, fn, *args):
    """Calls a function on each replica if a condition holds, in a graph.

    Args:
        condition: bool scalar, the same on all replicas.
        fn: function that assigns variables, such as an optimizer's step.
        args: the arguments of `fn` on this replica.
    """
    if tf.__internal__.distribute.strategy_supports_no_merge_call():
        tf.cond(condition, lambda: fn(*args), lambda: None)
        return

    # One replica must not wait for the others within `tf.cond`, so the
    # condition stands above all of them, as in Keras's `LossScaleOptimizer`.
    def run_on_each(strategy, condition, args):
        condition = strategy.experimental_local_results(condition)[0]
        each = strategy.extended.call_for_each_replica
        tf.cond(condition, lambda: each(fn, args), lambda: None)

    context = tf.distribute.get_replica_context()
    context.merge_call(run_on_each, args=(condition, args))


def strategy_of_workers(model):
    """Returns the strategy of a model that belongs to several processes.

    The result is `None` for any other model.
    """
    strategy = model._distribute_strategy
    if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        if strategy.extended._in_multi_worker_mode():
            return strategy
    return None


class OfSeveralWorkers:
    """Lets `fit` and `evaluate` of Keras run in several processes.

    Under a `MultiWorkerMirroredStrategy`, Keras reduces the logs of a step in a
    way that scalars do not have (keras-team/keras#20585). A model of this class
    returns the same logs on all replicas, so nothing needs to be reduced: Keras
    does not know the strategy by its class then.

    Attributes:
        is_predicting: bool. Whether Keras is to gather the outputs of all
            workers, for which it must know the strategy.
    """

    is_predicting = False

    @property
    def distribute_strategy(self):
        strategy = strategy_of_workers(self)
        if strategy is None or self.is_predicting:
            return super().distribute_strategy
        return _StrategyOfWorkers(strategy, self.distributed_dataset)

    def distributed_dataset(self, dataset, strategy):
        """Returns the distributed dataset that Keras is to iterate over."""
        raise NotImplementedError


class _StrategyOfWorkers:
    def __init__(self, strategy, distributed_dataset):
        self._strategy = strategy
        self._distributed_dataset = distributed_dataset

    def experimental_distribute_dataset(self, dataset):
        return self._distributed_dataset(dataset, self._strategy)

    def __getattr__(self, name):
        return getattr(self._strategy, name)


class BuiltFromOneReplica:
    """Lets Keras build a model from the first batch of one replica.

    Under a distribution strategy, Keras builds models, metrics and optimizers
    before the first trace, from the mean of the replicas' batches. Replicas
    with different numbers of tasks have no such mean, nor have the batches of
    several machines.
    """

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        strategy = self._distribute_strategy
        if strategy is not None and iterator is not None:
            _, _, batches = next(iter(iterator))
            data_batch = tf.nest.map_structure(
                lambda value: strategy.experimental_local_results(value)[0],
                next(batches),
            )
            iterator = None
        super()._maybe_symbolic_build(iterator, data_batch)
