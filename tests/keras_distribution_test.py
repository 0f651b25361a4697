"""What breaks when a name about distribution strategies is taken away."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_maml import keras_distribution
from tests.sample_models import small_mlp


def optimizers():
    plain = keras.optimizers.Adam(0.1, clipnorm=1.0)
    return [plain, keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD())]


@pytest.mark.parametrize("optimizer", optimizers(), ids=["plain", "scaled"])
def test_an_optimizer_without_summing_has_the_same_variables(optimizer):
    variable = keras.Variable(np.ones([2]), dtype="float32")
    optimizer.build([variable])
    other = keras_distribution.without_summing(optimizer)
    assert [id(v) for v in other.variables] == list(
        map(id, optimizer.variables)
    )
    other.apply_gradients([(tf.ones([2]), variable)])
    assert int(optimizer.iterations) == 1
    assert variable.numpy().max() < 1


@pytest.mark.parametrize("optimizer", optimizers(), ids=["plain", "scaled"])
def test_only_an_optimizer_without_summing_sums_no_gradients(optimizer):
    # Without the name in use, the gradients of replicas would be summed twice.
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    pairs = [(tf.ones([2]), keras.Variable(np.ones([2])))]
    other = keras_distribution.without_summing(optimizer)
    other = getattr(other, "inner_optimizer", other)
    assert other._all_reduce_sum_gradients(pairs) == pairs
    calls = []
    inner._all_reduce_sum_gradients = lambda given: calls.append(given) or given
    variable = keras.Variable(np.ones([2]), dtype="float32")
    optimizer.build([variable])
    optimizer.apply_gradients([(tf.ones([2]), variable)])
    assert len(calls) == 1


def test_a_condition_stands_above_all_replicas():
    # A replica cannot wait for the others, as optimizers do, within `tf.cond`.
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        variable = tf.Variable(
            0.0, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA
        )

    def add(number):
        variable.assign_add(number)

    @tf.function(autograph=False)
    def run(condition):
        def step():
            keras_distribution.run_if(condition, add, tf.constant(2.0))

        strategy.run(step)

    run(tf.constant(False))
    assert variable.numpy() == 0
    run(tf.constant(True))
    assert variable.numpy() == 2


def test_keras_builds_from_the_batch_of_one_replica():
    class Model(keras_distribution.BuiltFromOneReplica, keras.Model):
        def train_step(self, data):
            # No gradients are summed over replicas: sums of one process must
            # not differ in size, and other tests share this process.
            return {"loss": tf.constant(0.0)}

    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        model = Model(*_input_and_output())
        model.compile("sgd", "mse", metrics=["mae"])
    # Three rows for the first replica and two for the second.
    data = tf.data.Dataset.from_tensors((np.ones((5, 2)), np.ones((5, 1))))
    model.fit(data, verbose=0)
    assert model.optimizer.built


def _input_and_output():
    x = keras.Input((2,))
    return x, keras.layers.Dense(1)(x)


def test_a_model_knows_whether_it_belongs_to_several_workers():
    # `tests/several_workers_test.py` has the other answer.
    assert keras_distribution.strategy_of_workers(small_mlp()) is None
    with tf.distribute.OneDeviceStrategy("CPU:0").scope():
        assert keras_distribution.strategy_of_workers(small_mlp()) is None


def test_keras_does_not_know_the_strategy_of_workers(monkeypatch):
    # Keras compares its class, and reduces what cannot be reduced.
    datasets = []

    class Model(keras_distribution.OfSeveralWorkers, keras.Model):
        def distributed_dataset(self, dataset, strategy):
            datasets.append(dataset)
            return strategy.experimental_distribute_dataset(dataset)

    strategy = tf.distribute.OneDeviceStrategy("CPU:0")
    with strategy.scope():
        model = Model(*_input_and_output())
        model.compile("sgd", "mse")
    monkeypatch.setattr(
        keras_distribution, "strategy_of_workers", lambda model: strategy
    )
    assert not isinstance(model.distribute_strategy, type(strategy))
    data = tf.data.Dataset.from_tensors((np.ones((4, 2)), np.ones((4, 1))))
    model.fit(data, shuffle=False, verbose=0)
    model.evaluate(data, verbose=0)
    # The very same, with what is known of it.
    assert datasets[0] is datasets[1] is data
    model.is_predicting = True
    assert model.distribute_strategy is strategy
