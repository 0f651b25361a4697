"""The named algorithms: what makes each of them itself, and that all work."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_maml
from keras_maml import algorithms
from tests import oracle
from tests.sample_models import class_batch
from tests.sample_models import small_mlp

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def features():
    """A learner without a head."""
    return keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(4, activation="tanh")]
    )


def with_context():
    x = keras.Input((2,))
    context = keras_maml.ContextInput(3)(x)
    h = keras.layers.Concatenate()([x, context])
    h = keras.layers.Dense(5, activation="tanh")(h)
    return keras.Model(x, keras.layers.Dense(3)(h))


def make(name, **kwargs):
    learner = {"proto_maml": features, "cavia": with_context}.get(
        name, lambda: small_mlp(2, 3, batch_norm=name == "maml_plus_plus")
    )()
    meta_model = getattr(algorithms, name)(learner, **kwargs)
    meta_model.compile(
        keras.optimizers.SGD(0.5), loss=LOSS, metrics=["accuracy"]
    )
    return meta_model


@pytest.mark.parametrize("name", algorithms.__all__)
def test_trains_saves_loads_and_exports(name, tmp_path):
    meta_model = make(name, task_map="loop")
    x, y = class_batch(tasks=4)
    before = [w.copy() for w in meta_model.get_weights()]
    history = meta_model.fit(x, y, batch_size=4, epochs=2, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert any(np.any(a != b) for a, b in zip(before, meta_model.get_weights()))
    outputs = meta_model.predict(x, verbose=0)
    meta_model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    settings, same = meta_model.get_config(), loaded.get_config()
    del settings["learner"], same["learner"]
    assert same == settings
    np.testing.assert_allclose(
        loaded.predict(x, verbose=0), outputs, rtol=1e-5, atol=1e-6
    )
    meta_model.export(tmp_path / "saved", verbose=False)
    saved = tf.saved_model.load(tmp_path / "saved")
    served = saved.serve(x["support_x"], x["support_y"], x["query_x"])
    np.testing.assert_allclose(served, outputs, rtol=1e-4, atol=1e-6)
    model = meta_model.adapt(x["support_x"][0], x["support_y"][0])
    prediction = model.predict(x["query_x"][0], verbose=0)
    assert prediction.shape == outputs[0].shape
    # It goes on training where it left off.
    loaded.fit(x, y, batch_size=4, verbose=0)


@pytest.mark.parametrize(
    ("name", "inner", "outer"),
    [
        ("maml", "all", "all"),
        ("anil", "head", "all"),
        ("boil", "body", "all"),
    ],
)
def test_which_weights_each_loop_moves(name, inner, outer):
    meta_model = make(name)
    x, y = class_batch(tasks=4)
    theta = meta_model.learner.get_weights()
    adapted = meta_model.adapt(
        x["support_x"][0], x["support_y"][0]
    ).get_weights()
    moved = [np.any(a != b) for a, b in zip(adapted, theta)]
    # Kernel and bias of the body, then of the head.
    assert (
        moved
        == {
            "all": [True] * 4,
            "head": [False, False, True, True],
            "body": [True, True, False, False],
        }[inner]
    )
    meta_model.fit(x, y, batch_size=4, verbose=0)
    trained = meta_model.learner.get_weights()
    assert all(np.any(a != b) for a, b in zip(trained, theta))


def test_fomaml_is_the_gradient_at_the_adapted_weights():
    meta_model = make("fomaml", inner_optimizer=0.1, inner_steps=3)
    x, y = class_batch(tasks=1)
    mean, _ = meta_model._step((x, y), training=True)
    adapted = meta_model.adapt(x["support_x"][0], x["support_y"][0])
    with tf.GradientTape() as tape:
        loss = LOSS(y[0], adapted(x["query_x"][0], training=True))
    expected = tape.gradient(loss, adapted.trainable_variables)
    assert oracle.relative_error(mean["gradients"], expected) < 1e-5


def test_context_is_zero_at_the_start_of_every_task():
    meta_model = make("cavia")
    context = next(
        v for v in meta_model.learner.variables if v.name == "context"
    )
    x, y = class_batch(tasks=4)
    meta_model.fit(x, y, batch_size=4, epochs=3, verbose=0)
    np.testing.assert_array_equal(context, np.zeros(3))
    theta = meta_model.learner.get_weights()
    adapted = meta_model.adapt(x["support_x"][0], x["support_y"][0])
    for variable, old, new in zip(
        meta_model.learner.weights, theta, adapted.get_weights()
    ):
        assert np.any(old != new) == (variable.name == "context")
    # Whatever is assigned to it.
    outputs = meta_model.predict(x, verbose=0)
    context.assign(np.ones(3))
    np.testing.assert_allclose(meta_model.predict(x, verbose=0), outputs)


def test_settings_can_be_combined():
    # ANIL with learned rates and a multi-step loss, in first order.
    meta_model = algorithms.meta_sgd(
        small_mlp(2, 3),
        inner_steps=3,
        adapt="head",
        meta_gradient="first_order",
        outer_loss=keras_maml.outer_loss.MultiStep(10),
    )
    meta_model.compile("adam", loss=LOSS)
    x, y = class_batch(tasks=4)
    before = [w.copy() for w in meta_model.get_weights()]
    meta_model.fit(x, y, batch_size=4, verbose=0)
    assert all(np.any(a != b) for a, b in zip(before, meta_model.get_weights()))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"outer_loss": keras_maml.outer_loss.MultiStep(5)},
            "the query losses of earlier steps cannot count",
        ),
        ({"normalization": "per_step"}, "would not be trained"),
        ({"adapt": "head"}, "trains only what adapts"),
        (
            {
                "inner_optimizer": keras_maml.inner_optimizers.SGD(
                    keras_maml.inner_optimizers.LearnedRate()
                )
            },
            "learned rates would never change",
        ),
    ],
)
def test_what_reptile_cannot_train(settings, message):
    with pytest.raises(ValueError, match=message):
        make("reptile", **settings)


def test_what_prototypes_cannot_do():
    with pytest.raises(ValueError, match="not part of θ"):
        make("proto_maml", meta_gradient="implicit")
    with pytest.raises(ValueError, match="known when the step is traced"):
        make("proto_maml", task_map="vectorized")
