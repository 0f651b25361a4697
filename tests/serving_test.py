"""The exported SavedModel, in a process of its own without this library."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_maml
from tests.sample_models import class_batch
from tests.sample_models import regression_batch
from tests.sample_models import small_mlp

# Of each folder: loads a SavedModel, adapts to the tasks of one file and writes
# another.
CLIENT = """
import pathlib
import sys

import numpy as np
import tensorflow as tf

for folder in map(pathlib.Path, sys.argv[1:]):
    saved = tf.saved_model.load(folder / "saved")
    serve = saved.signatures["serving_default"]
    _, arguments = serve.structured_input_signature
    assert set(arguments) == {"support_x", "support_y", "query_x"}, arguments
    assert len(serve.structured_outputs) == 1
    data = np.load(folder / "inputs.npz")
    results = {}
    for case in ("a", "b"):
        tensors = {key: tf.constant(data[f"{case}_{key}"]) for key in arguments}
        (results[case],) = serve(**tensors).values()
    np.savez(folder / "outputs.npz", **results)
assert "keras_maml" not in sys.modules
"""


def prepare(folder, exported, original, batches):
    """Exports for the client; returns what the original predicts."""
    exported.export(folder / "saved", verbose=False)
    arrays = {
        f"{case}_{key}": value
        for case, x in batches.items()
        for key, value in x.items()
    }
    np.savez(folder / "inputs.npz", **arrays)
    return {case: original.predict(x, verbose=0) for case, x in batches.items()}


def classifier(**kwargs):
    meta_model = keras_maml.MetaModel(
        small_mlp(2, 3, batch_norm=True),
        inner_optimizer=0.5,
        inner_steps=1,
        evaluation_steps=2,
        **kwargs,
    )
    meta_model.compile(
        optimizer="adam",
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return meta_model


def many_steps():
    # Of more than five, all but the first are a loop.
    meta_model = keras_maml.MetaModel(
        small_mlp(2, 3, batch_norm=True), inner_steps=2, evaluation_steps=8
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    meta_model.compile(optimizer="sgd", loss=loss)
    meta_model.predict(class_batch()[0], verbose=0)
    return meta_model


def saved_and_loaded(model, folder):
    model.save(folder / "model.keras")
    return keras.models.load_model(folder / "model.keras")


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Pairs of what is served elsewhere and what was predicted here.

    One client serves all: to start it takes longer than what it does.
    """
    batches = {
        "a": class_batch(tasks=3)[0],
        "b": class_batch(tasks=1, n_way=3, k_shot=5, q_query=4, seed=1)[0],
    }
    cases = ("fit", "load", "loop")
    folders = {name: tmp_path_factory.mktemp(name) for name in cases}
    fitted, loops = classifier(), many_steps()
    fitted.fit(*class_batch(), verbose=0)
    # What is exported, and what it is compared with.
    models = {
        "fit": (fitted, fitted),
        "load": (saved_and_loaded(fitted, folders["load"]), fitted),
        "loop": (saved_and_loaded(loops, folders["loop"]), loops),
    }
    expected = {
        name: prepare(folders[name], *models[name], batches) for name in cases
    }
    subprocess.run(
        [sys.executable, "-c", CLIENT, *folders.values()],
        check=True,
        cwd=folders["fit"],
    )
    return {
        name: (dict(np.load(folders[name] / "outputs.npz")), expected[name])
        for name in cases
    }


@pytest.mark.parametrize("after", ["fit", "load"])
def test_serves_any_number_of_tasks_shots_and_queries(after, served):
    actual, expected = served[after]
    for case in ("a", "b"):
        np.testing.assert_allclose(
            actual[case], expected[case], rtol=1e-6, atol=1e-6
        )


def test_loops_of_inner_steps_are_served(served):
    actual, expected = served["loop"]
    for case in ("a", "b"):
        np.testing.assert_allclose(
            actual[case], expected[case], rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("normalization", ["support", "moving"])
def test_every_choice_of_statistics_is_served(normalization, tmp_path):
    meta_model = classifier(normalization=normalization)
    x, _ = class_batch()
    expected = meta_model.predict(x, verbose=0)
    meta_model.export(tmp_path / "saved", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "saved")
    served = loaded.serve(x["support_x"], x["support_y"], x["query_x"])
    np.testing.assert_allclose(served, expected, rtol=1e-6, atol=1e-6)


def test_a_signature_of_ones_own(tmp_path):
    # Without any data seen, or with sizes fixed for a device.
    meta_model = keras_maml.MetaModel(small_mlp(), inner_loss="mse")
    meta_model.export(
        tmp_path / "saved",
        verbose=False,
        input_signature={
            "support_x": tf.TensorSpec((1, 6, 1), "float32"),
            "support_y": keras.KerasTensor((1, 6, 1), "float32"),
            "query_x": keras.InputSpec(shape=(1, 5, 1), dtype="float32"),
        },
    )
    loaded = tf.saved_model.load(tmp_path / "saved")
    _, arguments = loaded.signatures[
        "serving_default"
    ].structured_input_signature
    assert arguments["support_x"].shape == (1, 6, 1)
    x, _ = regression_batch(tasks=1)
    served = loaded.serve(x["support_x"], x["support_y"], x["query_x"])
    np.testing.assert_allclose(
        served, meta_model.predict(x, verbose=0), rtol=1e-5, atol=1e-6
    )


def test_several_inputs_have_names_of_their_own(tmp_path):
    a, b = keras.Input((2,), name="a"), keras.Input((3,), name="b")
    joined = keras.layers.Concatenate()([a, b])
    learner = keras.Model({"a": a, "b": b}, keras.layers.Dense(1)(joined))
    meta_model = keras_maml.MetaModel(learner, inner_loss="mse")
    rng = np.random.default_rng(0)

    def inputs(n):
        return {
            "a": rng.standard_normal((2, n, 2)).astype("f"),
            "b": rng.standard_normal((2, n, 3)).astype("f"),
        }

    x = {
        "support_x": inputs(4),
        "support_y": np.ones((2, 4, 1), "f"),
        "query_x": inputs(5),
    }
    expected = meta_model.predict(x, verbose=0)
    meta_model.export(tmp_path / "saved", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "saved")
    served = loaded.serve(x["support_x"], x["support_y"], x["query_x"])
    np.testing.assert_allclose(served, expected, rtol=1e-5, atol=1e-6)
    _, arguments = loaded.signatures[
        "serving_default"
    ].structured_input_signature
    assert {
        "support_x_a",
        "support_x_b",
        "support_y",
        "query_x_a",
        "query_x_b",
    } == set(arguments)


def test_wrong_sizes_are_refused_when_served(tmp_path):
    meta_model = keras_maml.MetaModel(small_mlp(), inner_loss="mse")
    x, _ = regression_batch()
    meta_model.predict(x, verbose=0)
    meta_model.export(tmp_path / "saved", verbose=False)
    saved = tf.saved_model.load(tmp_path / "saved")
    for change, message in (
        ({"support_y": x["support_y"][:, :1]}, "arrays of the support set"),
        ({"query_x": x["query_x"][:2]}, "the same number of tasks"),
        ({"query_x": x["query_x"][:, :0]}, "query set may be empty"),
        (
            {k: x[k][:, :0] for k in ("support_x", "support_y")},
            "Neither the support nor",
        ),
        ({k: v[:0] for k, v in x.items()}, "at least one task"),
    ):
        wrong = {**x, **change}
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            saved.serve(
                wrong["support_x"], wrong["support_y"], wrong["query_x"]
            )


def test_a_label_that_is_no_class_is_refused_when_served(tmp_path):
    x, _ = class_batch()
    meta_model = keras_maml.MetaModel(
        small_mlp(2, 3), inner_loss="sparse_categorical_crossentropy"
    )
    meta_model.predict(x, verbose=0)
    meta_model.export(tmp_path / "saved", verbose=False)
    saved = tf.saved_model.load(tmp_path / "saved")
    for label in (3, -1):
        y = np.full_like(x["support_y"], label)
        with pytest.raises(
            tf.errors.InvalidArgumentError,
            match="`support_y` must hold class labels, integers from 0 to 2",
        ):
            saved.serve(x["support_x"], y, x["query_x"])
