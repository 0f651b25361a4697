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

# Loads a SavedModel, adapts to the tasks of one file and writes another.
CLIENT = """
import sys

import numpy as np
import tensorflow as tf

path, inputs, outputs = sys.argv[1:]
serve = tf.saved_model.load(path).signatures["serving_default"]
_, arguments = serve.structured_input_signature
assert set(arguments) == {"support_x", "support_y", "query_x"}, arguments
assert len(serve.structured_outputs) == 1
data = np.load(inputs)
results = {}
for case in ("a", "b"):
    tensors = {key: tf.constant(data[f"{case}_{key}"]) for key in arguments}
    (results[case],) = serve(**tensors).values()
np.savez(outputs, **results)
assert "keras_maml" not in sys.modules
"""


def serve_elsewhere(path, batches, tmp_path):
    arrays = {
        f"{case}_{key}": value
        for case, x in batches.items()
        for key, value in x.items()
    }
    np.savez(tmp_path / "inputs.npz", **arrays)
    subprocess.run(
        [
            sys.executable,
            "-c",
            CLIENT,
            path,
            tmp_path / "inputs.npz",
            tmp_path / "outputs.npz",
        ],
        check=True,
        cwd=tmp_path,
    )
    return np.load(tmp_path / "outputs.npz")


def classifier(**kwargs):
    meta_model = keras_maml.MetaModel(
        small_mlp(2, 3, batch_norm=True),
        inner_optimizer=0.5,
        inner_steps=1,
        evaluation_steps=3,
        **kwargs,
    )
    meta_model.compile(
        optimizer="adam",
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return meta_model


@pytest.mark.parametrize("after", ["fit", "load"])
def test_serves_any_number_of_tasks_shots_and_queries(after, tmp_path):
    meta_model = classifier()
    meta_model.fit(*class_batch(), verbose=0)
    if after == "load":
        meta_model.save(tmp_path / "model.keras")
        meta_model = keras.models.load_model(tmp_path / "model.keras")
    meta_model.export(tmp_path / "saved", verbose=False)
    batches = {
        "a": class_batch(tasks=3)[0],
        "b": class_batch(tasks=1, n_way=3, k_shot=5, q_query=4, seed=1)[0],
    }
    served = serve_elsewhere(tmp_path / "saved", batches, tmp_path)
    for case, x in batches.items():
        expected = meta_model.predict(x, verbose=0)
        np.testing.assert_allclose(served[case], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("normalization", ["support", "moving"])
def test_every_choice_of_statistics_is_served(normalization, tmp_path):
    meta_model = classifier(normalization=normalization)
    x, _ = class_batch()
    expected = meta_model.predict(x, verbose=0)
    meta_model.export(tmp_path / "saved", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "saved")
    served = loaded.serve(x["support_x"], x["support_y"], x["query_x"])
    np.testing.assert_allclose(served, expected, rtol=1e-6, atol=1e-6)


def test_loops_of_inner_steps_are_served(tmp_path):
    # Of more than five, all but the first are a loop.
    meta_model = keras_maml.MetaModel(
        small_mlp(2, 3, batch_norm=True), inner_steps=2, evaluation_steps=8
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    meta_model.compile(optimizer="sgd", loss=loss)
    x, y = class_batch()
    expected = meta_model.predict(x, verbose=0)
    meta_model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    loaded.export(tmp_path / "served", verbose=False)
    outputs = serve_elsewhere(tmp_path / "served", {"a": x, "b": x}, tmp_path)
    np.testing.assert_allclose(outputs["a"], expected, rtol=1e-5, atol=1e-6)


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
