"""No code of a file's author runs when the file is read."""

import ast
import json
import pathlib
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_maml
from keras_maml import adaptation
from keras_maml import inner_optimizers
from keras_maml import meta_gradients
from keras_maml import tasks
from tests.sample_models import regression_model

CHECKOUT = pathlib.Path(__file__).resolve().parent.parent
# Modules that build any object, or run code, from what a file holds.
MODULES = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
NAMES = {"eval", "exec", "enable_unsafe_deserialization", "unsafe_load"}


def unsafe(source):
    """Returns the lines that may run what a file holds."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name.split(".")[0] for alias in node.names]
            is_unsafe = bool(MODULES & set(names))
        elif isinstance(node, ast.ImportFrom):
            is_unsafe = (node.module or "").split(".")[0] in MODULES
        elif isinstance(node, (ast.Name, ast.Attribute)):
            name = node.id if isinstance(node, ast.Name) else node.attr
            is_unsafe = name in NAMES
        elif isinstance(node, ast.keyword):
            value = getattr(node.value, "value", None)
            is_unsafe = (node.arg == "safe_mode" and value is not True) or (
                node.arg == "allow_pickle" and value is not False
            )
        else:
            is_unsafe = False
        if is_unsafe:
            found.append(node.lineno if hasattr(node, "lineno") else 0)
    return found


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from marshal import loads",
        "np.load(path, allow_pickle=True)",
        "keras.saving.load_model(path, safe_mode=False)",
        "eval(text)",
        "keras.config.enable_unsafe_deserialization()",
    ],
)
def test_unsafe_lines_are_found(source):
    assert unsafe(source)


def test_the_library_has_no_unsafe_line():
    files = [
        path
        for folder in ("keras_maml", "examples", "benchmarks")
        for path in (CHECKOUT / folder).rglob("*.py")
    ]
    if not files:
        pytest.skip("Only an installed package is here.")
    found = {str(path): unsafe(path.read_text("utf-8")) for path in files}
    assert {path: lines for path, lines in found.items() if lines} == {}


def forged(tmp_path, change):
    """Returns the path of a saved `MetaModel` whose config is changed."""
    path = tmp_path / "model.keras"
    regression_model().save(path)
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(contents["config.json"])
    change(config["config"])
    contents["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return path


def marker(tmp_path):
    """Returns a file, and the config of a `Lambda` that would write it."""
    path = tmp_path / "was_run"
    name = str(path)
    layer = keras.layers.Lambda(lambda x: (open(name, "w").close(), x)[1])
    return path, keras.saving.serialize_keras_object(layer)


def test_a_lambda_in_the_learner_is_refused(tmp_path):
    was_run, config = marker(tmp_path)

    def change(settings):
        settings["learner"]["config"]["layers"].append(config)

    path = forged(tmp_path, change)
    with pytest.raises(ValueError, match="safe_mode|lambda"):
        keras.saving.load_model(path)
    assert not was_run.exists()
    # Otherwise the file would show nothing.
    with pytest.raises(ValueError, match="could not be loaded"):
        keras.saving.load_model(path, safe_mode=False)
    assert was_run.exists()


@pytest.mark.parametrize(
    "setting",
    [
        "inner_optimizer",
        "meta_gradient",
        "adapted_weights",
        "outer_loss",
        "inner_loss",
        "signature",
    ],
)
def test_code_in_a_setting_is_refused(tmp_path, setting):
    was_run, config = marker(tmp_path)
    code = config["config"]["function"]
    for evil in (config, code):
        path = forged(tmp_path, lambda s, evil=evil: s.update({setting: evil}))
        with pytest.raises((TypeError, ValueError)):
            keras.saving.load_model(path)
    assert not was_run.exists()


@pytest.mark.parametrize(
    "get",
    [
        adaptation.get,
        inner_optimizers.get,
        meta_gradients.get,
        keras_maml.outer_loss.get,
    ],
)
def test_get_never_turns_the_safe_mode_off(tmp_path, get):
    was_run, config = marker(tmp_path)
    os_system = {
        "module": "os",
        "class_name": "function",
        "config": "system",
        "registered_name": "function",
    }
    for evil in (config, config["config"]["function"], os_system):
        with pytest.raises((TypeError, ValueError)):
            get(evil)
    assert not was_run.exists()


def test_arrays_of_objects_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, support_x=np.array([{}], object))
    with pytest.raises(ValueError, match="allow_pickle"):
        dict(np.load(path))
    with pytest.raises(ValueError, match="Received"):
        tasks.from_arrays(np.array([{}, {}], object), [0, 1])


def test_followed_links_may_leave_the_folder(tmp_path):
    """Documented: whoever passes `follow_links=True` trusts the folder."""
    root, other = tmp_path / "root", tmp_path / "other"
    root.mkdir()
    other.mkdir()
    png = tf.io.encode_png(tf.zeros([6, 6, 3], tf.uint8)).numpy()
    (other / "1.png").write_bytes(png)
    (root / "b").symlink_to(other)
    with pytest.raises(ValueError, match="follow_links=True"):
        tasks.from_folder(root)
    assert tasks.from_folder(root, follow_links=True).class_names == ["b"]
