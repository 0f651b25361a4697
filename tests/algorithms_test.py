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
    context = keras_maml.ContextParameters(3)(x)
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


@pytest.mark.parametrize(
    "name",
    [
        # All take half a minute, most of it for the export.
        pytest.param(
            name,
            marks=[pytest.mark.slow] if name not in ("maml", "reptile") else [],
        )
        for name in algorithms.__all__
    ],
)
def test_trains_saves_loads_and_exports(name, tmp_path):
    # Every further step is a further graph.
    settings = {
        "maml_plus_plus": {"inner_steps": 2},
        "imaml": {"inner_steps": 2, "cg_steps": 1},
        "reptile": {"inner_steps": 2},
    }
    meta_model = make(name, task_map="loop", **settings.get(name, {}))
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
    # Otherwise two more graphs of each algorithm would be traced.
    loaded.run_eagerly = True
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
    mean = meta_model._step((x, y), training=True)[0].mean
    adapted = meta_model.adapt(x["support_x"][0], x["support_y"][0])
    with tf.GradientTape() as tape:
        loss = LOSS(y[0], adapted(x["query_x"][0], training=True))
    expected = tape.gradient(loss, adapted.trainable_variables)
    assert (
        oracle.relative_error(tf.nest.flatten(mean["gradients"]), expected)
        < 1e-5
    )


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
        adapted_weights="head",
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
        ({"adapted_weights": "head"}, "trains only weights that adapt"),
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
        make("proto_maml", task_map="compiled")


SGD = keras_maml.inner_optimizers.SGD
LearnedRate = keras_maml.inner_optimizers.LearnedRate


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        (
            "proto_maml",
            {"inner_optimizer": SGD(LearnedRate(per="weight"))},
            "cannot learn rates for the weights of a head",
        ),
        (
            "imaml",
            {"inner_optimizer": SGD(0.1, weight_decay=0.1)},
            "seeks another point",
        ),
        (
            "maml_plus_plus",
            {"adapted_weights": ["batch_normalization"]},
            "selects nothing else",
        ),
    ],
)
def test_what_cannot_go_together(name, settings, message):
    with pytest.raises(ValueError, match=message):
        make(name, **settings)


def test_a_head_from_prototypes_can_learn_one_rate():
    meta_model = make(
        "proto_maml", inner_optimizer=SGD(LearnedRate(0.1, per_step=True))
    )
    x, y = class_batch(tasks=4)
    rate = meta_model.meta_state.parameters[0]
    before = rate.numpy()
    meta_model.fit(x, y, batch_size=4, verbose=0)
    assert np.all(rate.numpy() != before)


@pytest.mark.parametrize("meta_gradient", ["reptile", "implicit"])
def test_no_outer_loop_moves_the_context(meta_gradient):
    meta_model = make("cavia", meta_gradient="implicit", inner_steps=3)
    if meta_gradient == "reptile":
        meta_model = keras_maml.MetaModel(
            with_context(), meta_gradient="reptile", task_map="loop"
        )
        meta_model.compile(keras.optimizers.SGD(0.5), loss=LOSS)
    x, y = class_batch(tasks=4)
    meta_model.fit(x, y, batch_size=4, verbose=0)
    for variable in meta_model.learner.variables:
        if variable.name == "context":
            np.testing.assert_array_equal(variable, np.zeros(3))


@pytest.mark.parametrize("change", ["freeze", "steps", "rule", "norm"])
def test_what_belongs_to_steps_and_variables_is_settled_when_built(change):
    meta_model = make("maml_plus_plus")
    x, y = class_batch(tasks=4)
    if change == "freeze":
        meta_model.learner.layers[0].trainable = False
    elif change == "steps":
        meta_model.inner_steps = 7
    elif change == "rule":
        meta_model.inner_optimizer = SGD(0.1)
    else:
        meta_model.normalization = "moving"
    meta_model.compile("adam", loss=LOSS)
    with pytest.raises(ValueError, match="when the `MetaModel` was built"):
        meta_model.fit(x, y, batch_size=4, verbose=0)


def unbuilt(name):
    """A learner that `fit` builds, and settings that keep the graph small."""
    layers = keras.layers
    learner = [layers.Dense(4, activation="tanh"), layers.Dense(3)]
    settings = {}
    if name == "cavia":
        # The layer's context parameters take the place of its inputs.
        learner.insert(1, keras_maml.ContextParameters(3))
    elif name == "proto_maml":
        del learner[1]
    elif name == "maml_plus_plus":
        learner.insert(1, layers.BatchNormalization())
        settings["inner_steps"] = 2
    elif name == "imaml":
        settings.update(inner_steps=2, cg_steps=1)
    elif name == "reptile":
        settings["inner_steps"] = 2
    return keras.Sequential(learner), settings


@pytest.mark.parametrize(
    "name",
    [
        # The labels of `proto_maml` must stay integers. All take 18 s.
        pytest.param(name, marks=[pytest.mark.slow][name == "proto_maml" :])
        for name in algorithms.__all__
    ],
)
def test_what_fit_has_built_is_exported(name, tmp_path):
    learner, settings = unbuilt(name)
    meta_model = getattr(algorithms, name)(learner, task_map="loop", **settings)
    meta_model.compile(keras.optimizers.SGD(0.5), loss=LOSS)
    x, y = class_batch(tasks=2)
    meta_model.fit(x, y, batch_size=2, verbose=0)
    meta_model.export(tmp_path / "saved", verbose=False)
    saved = tf.saved_model.load(tmp_path / "saved")
    np.testing.assert_allclose(
        saved.serve(x["support_x"], x["support_y"], x["query_x"]),
        meta_model.predict(x, verbose=0),
        rtol=1e-4,
        atol=1e-6,
    )


def test_an_unbuilt_learner_gets_rates_and_rows():
    layers = keras.layers
    learner = keras.Sequential(
        [layers.Dense(4), layers.BatchNormalization(), layers.Dense(3)]
    )
    meta_model = algorithms.maml_plus_plus(learner, inner_steps=2)
    meta_model.compile("adam", loss=LOSS)
    x, y = class_batch(tasks=4)
    meta_model.fit(x, y, batch_size=4, verbose=0)
    gamma, beta = meta_model.meta_state.scales
    assert gamma.shape == beta.shape == (2, 4)
    np.testing.assert_allclose(gamma, np.ones((2, 4)), atol=0.01)
    # Built twice, there is nothing more to train.
    count = len(meta_model.trainable_variables)
    meta_model.build({"query_x": (4, 6, 2)})
    assert len(meta_model.trainable_variables) == count
    meta_model.fit(x, y, batch_size=4, verbose=0)
