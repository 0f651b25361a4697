"""Heads that start from prototypes."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_maml
from keras_maml.engine import prototypes
from tests import oracle
from tests.sample_models import class_batch


def cross_entropy():
    # Made by each test, since a loss remembers the precision of its time.
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def proto_maml(**kwargs):
    body = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(4, activation="tanh")]
    )
    meta_model = keras_maml.algorithms.proto_maml(
        body, **{"inner_optimizer": 0.1, "inner_steps": 2, **kwargs}
    )
    meta_model.compile("adam", loss=cross_entropy(), metrics=["accuracy"])
    return meta_model


def test_the_first_head_classifies_by_distance_to_the_means():
    rng = np.random.default_rng(0)
    features = rng.standard_normal((6, 3)).astype("float32")
    labels = tf.constant([0, 2, 0, 1, 2, 2])
    queries = rng.standard_normal((4, 3)).astype("float32")
    head = prototypes.linear_head(tf.constant(features), labels, None, 3)
    scores = prototypes.apply_head(head, queries)
    means = np.stack([features[labels.numpy() == k].mean(0) for k in range(3)])
    distances = ((queries[:, None] - means) ** 2).sum(-1)
    np.testing.assert_allclose(
        tf.nn.softmax(scores), tf.nn.softmax(-distances), rtol=1e-4
    )


def test_padding_and_missing_classes_do_not_count():
    features = tf.constant([[1.0, 0.0], [0.0, 1.0], [9.0, 9.0]])
    labels = tf.constant([0, 1, 1])
    head = prototypes.linear_head(
        features, labels, tf.constant([1.0, 1.0, 0.0]), 3
    )
    kernel, bias = head
    np.testing.assert_allclose(kernel[:, 1], [0.0, 2.0])
    probabilities = tf.nn.softmax(prototypes.apply_head(head, features))
    np.testing.assert_array_equal(probabilities[:, 2], [0.0, 0.0, 0.0])


def test_without_steps_it_is_a_prototypical_network():
    x, _ = class_batch(tasks=1)
    meta_model = proto_maml(evaluation_steps=0)
    features = meta_model.learner(x["support_x"][0])
    head = prototypes.linear_head(
        features, tf.constant(x["support_y"][0]), None, 3
    )
    expected = prototypes.apply_head(head, meta_model.learner(x["query_x"][0]))
    actual = meta_model.predict(x, verbose=0)[0]
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.slow
def test_one_model_learns_tasks_of_any_number_of_classes(tmp_path):
    meta_model = proto_maml()
    for n_way in (3, 5):
        x, y = class_batch(tasks=4, n_way=n_way)
        meta_model.fit(x, y, batch_size=4, epochs=3, verbose=0)
    meta_model.export(tmp_path / "saved", verbose=False)
    served = tf.saved_model.load(tmp_path / "saved")
    meta_model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    loaded.run_eagerly = True
    for n_way in (3, 7):
        x, y = class_batch(tasks=2, n_way=n_way, seed=9)
        outputs = meta_model.predict(x, verbose=0)
        assert outputs.shape == (2, 2 * n_way, n_way)
        assert (
            meta_model.evaluate(x, y, return_dict=True, verbose=0)["accuracy"]
            > 1.5 / n_way
        )
        np.testing.assert_allclose(
            loaded.predict(x, verbose=0), outputs, rtol=1e-5
        )
        arguments = (x["support_x"], x["support_y"], x["query_x"])
        np.testing.assert_allclose(served.serve(*arguments), outputs, rtol=1e-5)
        model = meta_model.adapt(x["support_x"][0], x["support_y"][0])
        np.testing.assert_allclose(
            model.predict(x["query_x"][0], verbose=0), outputs[0], rtol=1e-4
        )


@pytest.mark.parametrize("steps", [2, 7])
def test_gradient(steps):
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    x, y = class_batch(tasks=2)
    oracle.assert_derivative(
        proto_maml(inner_steps=steps),
        {k: v.astype("float64") if "_x" in k else v for k, v in x.items()},
        y,
        rel=1e-5,
    )


@pytest.mark.parametrize(
    ("learner", "labels", "message"),
    [
        (
            keras.Sequential([keras.Input((2,)), keras.layers.Reshape((2, 1))]),
            "int32",
            "one vector of features for each example",
        ),
        (None, "float32", "integer labels"),
        (None, "one-hot", "one label for each example"),
    ],
)
def test_what_has_no_prototypes(learner, labels, message):
    x, _ = class_batch(tasks=1)
    meta_model = proto_maml()
    if learner is not None:
        learner.add(keras.layers.Dense(3))
        meta_model = keras_maml.MetaModel(
            learner, head_init="prototypes", inner_loss=cross_entropy()
        )
    y = x["support_y"][0]
    y = np.eye(3, dtype="int32")[y] if labels == "one-hot" else y.astype(labels)
    with pytest.raises(ValueError, match=message):
        meta_model.adapt(x["support_x"][0], y)


def test_the_head_of_a_half_precision_learner_is_float32():
    features = tf.constant([[300.0, 1.0], [1.0, 300.0]], tf.float16)
    kernel, bias = prototypes.linear_head(
        features, tf.constant([0, 1]), None, 2
    )
    assert kernel.dtype == bias.dtype == tf.float32
    np.testing.assert_allclose(bias, [-90001.0, -90001.0])


def test_xla_is_left_out():
    # It would have to know the number of classes.
    meta_model = proto_maml()
    assert not meta_model.supports_jit
    meta_model.compile("adam", loss=cross_entropy(), jit_compile="auto")
    assert not meta_model.jit_compile
