"""What earlier versions saved is loaded, and predicts as it did then."""

import json
import pathlib
import shutil
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_maml
from tests.sample_models import small_mlp

GOLDEN = pathlib.Path(__file__).absolute().parent / "golden" / "0.1"
EXPECTED = dict(np.load(GOLDEN / "expected.npz"))
MODELS = sorted(path.stem for path in GOLDEN.glob("*.keras"))
KEYS = ("support_x", "support_y", "query_x")


def inputs(name):
    return {key: EXPECTED[f"{name}/x/{key}"] for key in KEYS}


def load(name):
    path = GOLDEN / f"{name}.keras"
    with zipfile.ZipFile(path) as archive:
        saved_by = json.loads(archive.read("metadata.json"))["keras_version"]
    if version_of(keras.__version__) < version_of(saved_by):
        pytest.skip(f"Keras {saved_by} saved the file, and this one is older")
    return keras.models.load_model(path)


def version_of(text):
    return tuple(int(part) for part in text.split(".")[:2])


@pytest.mark.parametrize("name", [m for m in MODELS if m != "policy"])
def test_a_saved_model_predicts_as_it_did(name):
    predicted = load(name).predict(inputs(name), verbose=0)
    np.testing.assert_allclose(
        predicted, EXPECTED[f"{name}/predict"], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("name", ["maml", "maml_plus_plus"])
def test_a_saved_model_trains_on(name):
    model = load(name)
    # To trace the five steps of MAML++ takes longer.
    model.run_eagerly = True
    model.train_on_batch(inputs(name), EXPECTED[f"{name}/y"])
    np.testing.assert_allclose(
        model.predict(inputs(name), verbose=0),
        EXPECTED[f"{name}/next"],
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize(
    "name", sorted(p.name.split(".")[0] for p in GOLDEN.glob("*.weights.h5"))
)
def test_saved_weights_are_loaded(name):
    model = load(name)
    wanted = model.get_weights()
    model.set_weights([np.zeros_like(weight) for weight in wanted])
    model.load_weights(GOLDEN / f"{name}.weights.h5")
    for weight, value in zip(model.get_weights(), wanted, strict=True):
        np.testing.assert_array_equal(weight, value)


def test_a_saved_policy_acts_as_it_did():
    outputs = load("policy")(EXPECTED["policy/x"])
    for key in ("mean", "log_std"):
        np.testing.assert_allclose(
            outputs[key], EXPECTED[f"policy/{key}"], rtol=1e-5, atol=1e-6
        )


def test_an_exported_model_serves_as_it_did():
    served = tf.saved_model.load(GOLDEN / "maml_saved_model")
    np.testing.assert_allclose(
        served.serve(*(EXPECTED[f"maml/x/{key}"] for key in KEYS)),
        EXPECTED["maml/predict"],
        rtol=1e-4,
        atol=1e-5,
    )


def test_an_exported_policy_acts_as_it_did():
    served = tf.saved_model.load(GOLDEN / "policy_saved_model")
    outputs = served.act(EXPECTED["policy/x"])
    np.testing.assert_allclose(
        outputs["mean"], EXPECTED["policy/mean"], rtol=1e-5, atol=1e-6
    )


class StopError(Exception):
    pass


class Stop(keras.callbacks.Callback):
    """Stops a run at the second step of its second epoch."""

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if (self.epoch, batch) == (1, 1):
            raise StopError


def resumed(path, *callbacks):
    """The run of `tests/golden/0.2/run.resume`: two epochs of two steps.

    That file is what `resumed(path, Stop())` leaves.
    """
    model = keras_maml.algorithms.maml_plus_plus(
        small_mlp(batch_norm=True), inner_steps=1, task_map="loop"
    )
    model.compile("adam", "mse", metrics=["mae"], run_eagerly=True)
    history = model.fit(
        keras_maml.tasks.Sinusoid(2, 2, seed=0).batch(2),
        epochs=2,
        steps_per_epoch=2,
        callbacks=[
            keras.callbacks.EarlyStopping(
                "loss", patience=5, restore_best_weights=True
            ),
            keras_maml.callbacks.Resume(path, save_freq=1),
            *callbacks,
        ],
        shuffle=False,
        verbose=0,
    )
    return model, history


def test_a_run_goes_on(tmp_path):
    path = tmp_path / "run.resume"
    shutil.copy(GOLDEN.parent / "0.2" / "run.resume", path)
    model, history = resumed(path)
    expected = dict(np.load(GOLDEN.parent / "0.2" / "expected.npz"))
    assert history.epoch == [0, 1]
    assert len(expected) == len(model.weights) + 2
    for name in ("loss", "mae"):
        np.testing.assert_allclose(
            history.history[name], expected[f"history {name}"], rtol=1e-4
        )
    for i, weight in enumerate(model.get_weights()):
        np.testing.assert_allclose(
            weight, expected[f"{i:03d}"], rtol=1e-4, atol=1e-6
        )
