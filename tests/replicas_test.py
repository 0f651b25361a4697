"""Two replicas end at the weights of one device."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_maml
from tests.sample_models import assert_same
from tests.sample_models import regression_batch
from tests.sample_models import small_mlp

# A task that counts twice, one that counts half and one that does not count.
WEIGHTS = np.array([[2.0], [0.5], [0.0], [1.0]], "float32")


def trained(meta_gradient, strategy=None, tasks=slice(None), weights=WEIGHTS):
    """The learner's weights after two steps of plain SGD."""
    with strategy.scope() if strategy else contextlib.nullcontext():
        meta_model = keras_maml.MetaModel(
            small_mlp(),
            inner_optimizer=0.1,
            inner_steps=2,
            meta_gradient=meta_gradient,
            task_map="loop",
        )
        meta_model.compile(keras.optimizers.SGD(0.5), loss="mse")
    x, y = regression_batch(tasks=4)
    x = {key: value[tasks] for key, value in x.items()}
    meta_model.fit(
        x,
        y[tasks],
        sample_weight=weights[tasks],
        batch_size=4,
        epochs=2,
        shuffle=False,
        verbose=0,
    )
    return meta_model.learner.get_weights()


@pytest.mark.parametrize(
    "meta_gradient", ["second_order", "first_order", "reptile", "implicit"]
)
def test_two_replicas_train_as_one_device(meta_gradient):
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    assert_same(
        trained(meta_gradient),
        trained(meta_gradient, strategy),
        rtol=1e-5,
        atol=1e-6,
    )


def test_sample_weight_counts_in_reptile():
    # The mean over four tasks, of which one alone moves θ, is a quarter of it.
    only_first = WEIGHTS * 0 + np.array([[4.0], [0], [0], [0]], "float32")
    assert_same(
        trained("reptile", weights=only_first),
        trained("reptile", tasks=slice(1), weights=WEIGHTS * 0 + 1),
        rtol=1e-5,
        atol=1e-6,
    )
    start = small_mlp().get_weights()
    assert_same(trained("reptile", weights=0 * WEIGHTS), start, rtol=0)


def test_a_sum_is_refused_on_replicas():
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        meta_model = keras_maml.MetaModel(small_mlp(), task_map="loop")
        loss = keras.losses.MeanSquaredError(reduction="sum")
        meta_model.compile("sgd", loss)
    x, y = regression_batch(tasks=4)
    with pytest.raises(ValueError, match='`reduction="sum"` grows .* 2 rep'):
        meta_model.fit(x, y, batch_size=4, verbose=0)
