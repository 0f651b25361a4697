"""Two replicas end at the weights of one device."""

import json
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_maml
from tests import replicated_training
from tests.replicated_training import WEIGHTS
from tests.replicated_training import trained
from tests.sample_models import assert_same
from tests.sample_models import regression_batch
from tests.sample_models import small_mlp

CHECKOUT = pathlib.Path(__file__).absolute().parent.parent


@pytest.fixture(scope="module")
def results():
    done = subprocess.run(
        [sys.executable, "-m", replicated_training.__name__],
        cwd=CHECKOUT,
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize("meta_gradient", replicated_training.META_GRADIENTS)
def test_two_replicas_train_as_one_device(meta_gradient, results):
    alone, replicated = results[meta_gradient]
    assert_same(alone, replicated, rtol=1e-5, atol=1e-6)


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
