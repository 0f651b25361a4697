"""LiteRT files: what they hold, what they compute, and what is refused."""

import re
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_maml
from tests import layers_table
from tests.sample_models import small_mlp

pytest.importorskip("ai_edge_litert", reason="LiteRT has no package here")

from ai_edge_litert.interpreter import Interpreter

from keras_maml.serving import litert_file

# Adapts, keeps the weights in a file, and predicts with what it reads back.
DEVICE = """
import sys

import numpy as np
from ai_edge_litert.interpreter import Interpreter

file, data, kept, results = sys.argv[1:]
interpreter = Interpreter(file, num_threads=1)
x = dict(np.load(data))
query_x = x.pop("query_x")
weights = interpreter.get_signature_runner("adapt")(**x)
np.savez(kept, **weights)
predict = interpreter.get_signature_runner("predict")
apart = predict(query_x=query_x, **np.load(kept))
both = interpreter.get_signature_runner("adapt_and_predict")
together = both(query_x=query_x, **x)
np.savez(results, apart=apart["predictions"], both=together["predictions"])
assert not {"tensorflow", "keras", "keras_maml"} & set(sys.modules)
"""


def classifier(learner=None, **settings):
    if learner is None:
        learner = small_mlp(2, 3, batch_norm=True)
    return keras_maml.MetaModel(
        learner,
        inner_loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        **{"inner_optimizer": 0.5, **settings},
    )


def episode(*shape, support=6, queries=4, classes=3, seed=0):
    """Returns the inputs of one task, with an axis of one task."""
    rng = np.random.default_rng(seed)
    return {
        "support_x": rng.standard_normal((1, support, *shape)).astype("f"),
        "support_y": (np.arange(support)[None] % classes).astype("int32"),
        "query_x": rng.standard_normal((1, queries, *shape)).astype("f"),
    }


def specs(x):
    return tf.nest.map_structure(
        lambda array: tf.TensorSpec(array.shape, array.dtype), x
    )


def written(meta_model, x, path, **settings):
    meta_model.export(
        path,
        format="litert",
        verbose=False,
        input_signature=specs(x),
        **settings,
    )
    return path


def on_device(path, x):
    """Returns the weights, and the predictions of both ways."""
    interpreter = Interpreter(str(path), num_threads=1)
    support = {key: x[key] for key in x if key != "query_x"}
    weights = interpreter.get_signature_runner("adapt")(**support)
    predict = interpreter.get_signature_runner("predict")
    both = interpreter.get_signature_runner("adapt_and_predict")
    return (
        weights,
        predict(query_x=x["query_x"], **weights)["predictions"],
        both(**x)["predictions"],
    )


def assert_equals_predict(meta_model, path, x):
    expected = meta_model.predict(x, verbose=0)
    weights, *actual = on_device(path, x)
    for predictions in actual:
        predictions = predictions[..., : expected.shape[-1]]
        np.testing.assert_allclose(predictions, expected, rtol=1e-5, atol=1e-5)
    return weights


def assert_built_in(path):
    operations = litert_file.operations(path.read_bytes())
    assert sorted(operations) == ["adapt", "adapt_and_predict", "predict"]
    for names in operations.values():
        assert names
        assert not [name for name in names if name.startswith("CUSTOM")]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A model, its file, and a task. To write a file takes seconds."""
    meta_model = classifier(normalization="support")
    x = episode(2)
    path = tmp_path_factory.mktemp("litert") / "model.tflite"
    return meta_model, written(meta_model, x, path), x


def test_a_device_without_tensorflow_predicts_as_predict(exported, tmp_path):
    meta_model, path, x = exported
    files = [tmp_path / f"{name}.npz" for name in ("x", "kept", "results")]
    np.savez(files[0], **x)
    subprocess.run(
        [sys.executable, "-c", DEVICE, path, *files], check=True, cwd=tmp_path
    )
    expected = meta_model.predict(x, verbose=0)
    for actual in np.load(files[2]).values():
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_all_operations_are_built_in(exported):
    assert_built_in(exported[1])


def test_an_operation_that_is_not_built_in_is_listed():
    # As TensorFlow's own recipe gives it.
    function = tf.function(
        lambda x, d: tf.raw_ops.ReluGrad(gradients=d, features=x)
    ).get_concrete_function(*[tf.TensorSpec((2,))] * 2)
    module = tf.Module()
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [function], module
    )
    converter.target_spec.supported_ops = [tf.lite.OpsSet.SELECT_TF_OPS]
    operations = litert_file.operations(converter.convert())
    assert "CUSTOM FlexReluGrad" in operations["serving_default"]


def test_names_are_those_of_the_saved_model(exported):
    meta_model, path, x = exported
    interpreter = Interpreter(str(path))
    signatures = interpreter.get_signature_list()
    names = signatures["adapt"]["outputs"]
    assert "weight_4_moving_mean" in names
    assert set(signatures["predict"]["inputs"]) == {*names, "query_x"}
    assert signatures["predict"]["outputs"] == ["predictions"]
    assert set(signatures["adapt"]["inputs"]) == {"support_x", "support_y"}


def test_a_learner_of_several_inputs(tmp_path):
    signal = keras.Input((3,), name="signal")
    place = keras.Input((2,), name="place")
    hidden = keras.layers.Concatenate()([keras.layers.Dense(3)(signal), place])
    meta_model = keras_maml.MetaModel(
        keras.Model(
            {"signal": signal, "place": place}, keras.layers.Dense(1)(hidden)
        ),
        inner_loss="mse",
    )
    x = episode(5)
    x["support_y"] = x["support_y"][..., None].astype("f")
    for key in ("support_x", "query_x"):
        x[key] = {"signal": x[key][..., :3], "place": x[key][..., 3:]}
    path = written(meta_model, x, tmp_path / "model.tflite")
    assert_built_in(path)
    flat = {"support_y": x["support_y"]}
    for key in ("support_x", "query_x"):
        flat |= {f"{key}_{name}": x[key][name] for name in x[key]}
    interpreter = Interpreter(str(path), num_threads=1)
    both = interpreter.get_signature_runner("adapt_and_predict")
    np.testing.assert_allclose(
        both(**flat)["predictions"],
        meta_model.predict(x, verbose=0),
        rtol=1e-5,
        atol=1e-5,
    )


@pytest.mark.parametrize("weight_type", ["float16", "int8"])
def test_weights_of_another_type_are_close(exported, weight_type, monkeypatch):
    _, path, x = exported
    content = path.read_bytes()
    # The learner is too small for what is worth it.
    monkeypatch.setattr(litert_file, "_MIN_ELEMENTS", 4)
    changed = litert_file.finished(content, weight_type)
    operations = litert_file.operations(changed)
    assert operations["adapt"]["DEQUANTIZE"] > 0
    expected = on_device(path, x)[1]
    path = path.with_suffix(f".{weight_type}.tflite")
    path.write_bytes(changed)
    actual = on_device(path, x)[1]
    error = np.abs(actual - expected).max()
    assert 0 < error < {"float16": 2e-3, "int8": 5e-2}[weight_type]


def test_int8_of_an_array_in_two_shapes_and_of_a_bias():
    # The converter keeps equal bytes once.
    rng = np.random.default_rng(0)
    arrays = {"a": rng.standard_normal((8, 256)).astype("f")}
    arrays["a"] *= np.logspace(-3, 3, 256)
    arrays["b"] = arrays["a"].reshape(256, 8)
    arrays["bias"] = rng.standard_normal(600).astype("f")
    function = tf.function(
        lambda x: {name: array + x for name, array in arrays.items()}
    ).get_concrete_function(tf.TensorSpec(()))
    module = tf.Module()
    module.function = function
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [function], module
    )
    changed = litert_file.finished(converter.convert(), "int8")
    interpreter = Interpreter(model_content=changed)
    interpreter.allocate_tensors()
    x = interpreter.get_input_details()[0]["index"]
    interpreter.set_tensor(x, np.zeros((), "float32"))
    interpreter.invoke()
    found = {}
    for detail in interpreter.get_output_details():
        found[tuple(detail["shape"])] = interpreter.get_tensor(detail["index"])
    for array in arrays.values():
        error = np.abs(found[array.shape] - array)
        assert (error <= 0.51 / 127 * np.abs(array).max(0)).all()
    np.testing.assert_array_equal(found[600,], arrays["bias"])


@pytest.mark.parametrize("label", [3, -1])
def test_a_label_that_is_no_class_is_an_error(exported, label):
    _, path, x = exported
    wrong = {**x, "support_y": np.full_like(x["support_y"], label)}
    with pytest.raises(RuntimeError, match="index out of bounds"):
        on_device(path, wrong)


def test_nan_gives_nan(exported):
    _, path, x = exported
    wrong = {**x, "support_x": np.full_like(x["support_x"], np.nan)}
    for predictions in on_device(path, wrong)[1:]:
        assert np.isnan(predictions).all()


def test_a_layer_without_an_operation_is_named(tmp_path):
    layers = keras.layers
    learner = keras.Sequential(
        [
            keras.Input((2,)),
            layers.Dense(3, name="dense"),
            layers.Lambda(tf.math.tanh, name="dense_1"),
            layers.Lambda(tf.math.erfinv, name="dense_2"),
            layers.Dense(3, name="dense_3"),
        ]
    )
    with pytest.raises(
        ValueError, match="Received: layer 'dense_2' with Erfinv"
    ) as raised:
        written(classifier(learner), episode(2), tmp_path / "a.tflite")
    assert "layer 'dense'" not in str(raised.value)
    assert not list(tmp_path.iterdir())


UNKNOWN = {**specs(episode(2)), "query_x": tf.TensorSpec((None, None, 2))}
MANY = {**specs(episode(2)), "query_x": tf.TensorSpec((2, 4, 2))}
FEW_LABELS = {**specs(episode(2)), "support_y": tf.TensorSpec((1, 1))}
FEW_WEIGHTS = {**specs(episode(2)), "support_weight": tf.TensorSpec((1, 1))}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"filepath": "a.bin"}, 'must end with ".tflite". Received: .*a.bin'),
        ({"weight_type": "int4"}, "`weight_type` must be one of"),
        ({"optimizations": []}, "only further arguments.*optimizations="),
        ({"n_way": 5}, "fixed sizes.*Received: n_way=5, head_init=None"),
        ({"input_signature": {"a": 1}}, "`input_signature` must be a dict"),
        ({"input_signature": None}, "`input_signature` must be a dict"),
        ({"input_signature": UNKNOWN}, "fixed sizes, and adapts to one task"),
        ({"input_signature": MANY}, "fixed sizes, and adapts to one task"),
        ({"input_signature": FEW_LABELS}, "the same number of examples"),
        ({"input_signature": FEW_WEIGHTS}, "the same number of examples"),
    ],
)
def test_wrong_arguments(settings, message, tmp_path):
    given = {"filepath": "a.tflite", "input_signature": specs(episode(2))}
    given = {**given, **settings}
    path = tmp_path / given.pop("filepath")
    with pytest.raises(ValueError, match=message):
        classifier().export(path, format="litert", **given)
    assert not list(tmp_path.iterdir())


def test_prototypes_need_a_number_of_classes(tmp_path):
    meta_model = classifier(head_init="prototypes")
    with pytest.raises(ValueError, match="pass `n_way`.*n_way=None"):
        written(meta_model, episode(2), tmp_path / "a.tflite")


@pytest.mark.slow
@pytest.mark.parametrize("label", [4, -1])
def test_a_label_beyond_n_way_is_an_error(label, tmp_path):
    # Without a step, no loss reads the labels.
    meta_model = classifier(head_init="prototypes", inner_steps=0)
    x = episode(2)
    path = written(meta_model, x, tmp_path / "model.tflite", n_way=4)
    wrong = {**x, "support_y": np.full_like(x["support_y"], label)}
    with pytest.raises(RuntimeError, match="index out of bounds"):
        on_device(path, wrong)


def test_labels_that_a_device_would_round_are_refused(tmp_path):
    x = episode(2)
    x["support_y"] = x["support_y"].astype("float32")
    with pytest.raises(ValueError, match="integer dtype.*float32"):
        written(classifier(), x, tmp_path / "a.tflite")


def test_the_package_is_named(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "keras_maml.serving.litert_file")
    monkeypatch.delattr(keras_maml.serving, "litert_file")
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    with pytest.raises(ImportError, match=re.escape("keras-maml[litert]")):
        written(classifier(), episode(2), tmp_path / "a.tflite")


# -- The device of examples/on_device.py


def test_bad_input_on_a_device(exported, load_program):
    _, path, x = exported
    example = load_program("examples.on_device")
    device = example.Device(path)
    good = x["support_x"], x["support_y"]
    weights = device.adapt(*good)
    for arguments, message in (
        ((good[0][0], good[1]), r"`support_x` must have the shape \(1, 6, 2\)"),
        ((good[0][:, :0], good[1]), r"Received: .* of shape \(1, 0, 2\)"),
        ((np.ones((1, 10**6, 2), "f"), good[1]), r"shape \(1, 1000000, 2\)"),
        ((good[0].astype("f8"), good[1]), "Received: .* and dtype float64"),
        ((np.full_like(good[0], np.nan), good[1]), "`support_x`.* finite"),
    ):
        with pytest.raises(ValueError, match=message):
            device.adapt(*arguments)
    del weights["weight_0_kernel"]
    with pytest.raises(ValueError, match="`predict` takes .*weight_0_kernel"):
        device.predict(x["query_x"], weights)


def test_other_files_on_a_device(exported, load_program, tmp_path):
    example = load_program("examples.on_device")
    path = tmp_path / "a.tflite"
    for content in (b"", b"no model" * 100, None):
        if content is not None:
            path.write_bytes(content)
        else:
            path.unlink()
        with pytest.raises(ValueError, match="`path` must be a LiteRT file"):
            example.Device(path)
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [tf.function(tf.abs).get_concrete_function(tf.TensorSpec((2,)))],
        tf.Module(),
    )
    path.write_bytes(converter.convert())
    with pytest.raises(ValueError, match="with the signatures.*Received"):
        example.Device(path)


# -- Many networks and algorithms, `slow`


def conv(**settings):
    return keras_maml.learners.conv4(
        (16, 16, 1), 3, filters=4, head_stddev=0.1, **settings
    )


def separable():
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(4, 3, strides=2, padding="same"),
            layers.DepthwiseConv2D(3, padding="same"),
            layers.BatchNormalization(),
            layers.ReLU(6.0),
            layers.Conv2D(4, 1),
            layers.LayerNormalization(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3),
        ]
    )


def recurrent(layer):
    return keras.Sequential([keras.Input((5, 2)), layer, keras.layers.Dense(3)])


def mobilenet(top=True):
    backbone = keras.applications.MobileNetV2(
        (32, 32, 3), 0.35, include_top=False, weights=None, pooling="avg"
    )
    # Else, untrained features would vanish.
    rng = np.random.default_rng(0)
    for variable in backbone.variables:
        if variable.ndim > 1:
            noise = rng.standard_normal(variable.shape)
            variable.assign(noise * np.prod(variable.shape[:-1]) ** -0.5)
    if not top:
        return backbone
    return keras.Sequential([backbone, keras.layers.Dense(3)])


GIVEN = {
    "strided": (conv, (16, 16, 1), {"inner_steps": 3}),
    "max-pooled": (lambda: conv(max_pool=True), (16, 16, 1), {}),
    "separable": (separable, (8, 8, 1), {"inner_steps": 2}),
    "GRU": (lambda: recurrent(keras.layers.GRU(3)), (5, 2), {}),
    "LSTM": (lambda: recurrent(keras.layers.LSTM(3)), (5, 2), {}),
    "MobileNetV2, head only": (
        mobilenet,
        (32, 32, 3),
        {"adapted_weights": "head", "normalization": "moving"},
    ),
    "MobileNetV2, prototypes": (
        lambda: mobilenet(top=False),
        (32, 32, 3),
        {
            "head_init": "prototypes",
            "inner_steps": 0,
            "normalization": "moving",
        },
    ),
    "seven steps of Adam": (
        lambda: small_mlp(2, 3),
        (2,),
        {"inner_optimizer": "adam", "inner_steps": 7},
    ),
    "statistics of each step": (
        lambda: small_mlp(2, 3, batch_norm=True),
        (2,),
        {"normalization": "per_step", "inner_steps": 2},
    ),
    "batches": (lambda: small_mlp(2, 3), (2,), {"inner_batch_size": 2}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", GIVEN)
def test_networks(name, tmp_path):
    make, shape, settings = GIVEN[name]
    meta_model = classifier(make(), **settings)
    x = episode(*shape, support=3, queries=2)
    classes = {"n_way": 4} if meta_model.head_init else {}
    path = written(meta_model, x, tmp_path / "model.tflite", **classes)
    weights = assert_equals_predict(meta_model, path, x)
    assert_built_in(path)
    if "MobileNetV2" in name:
        assert len(weights) == 2


@pytest.mark.slow
def test_fewer_examples_than_the_file_has_room_for(tmp_path):
    meta_model = classifier()
    x = {**episode(2), "support_weight": np.array([[1, 1, 2, 1, 0, 0]], "f")}
    x["support_x"][0, 4:] = np.nan
    path = written(meta_model, x, tmp_path / "model.tflite")
    assert_equals_predict(meta_model, path, x)
    assert_built_in(path)


@pytest.mark.slow
@pytest.mark.parametrize("ignored", [-1, 2, 255])
def test_labels_that_a_loss_ignores(ignored, tmp_path):
    loss = keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, ignore_class=ignored
    )
    meta_model = keras_maml.MetaModel(
        small_mlp(2, 3), inner_optimizer=0.5, inner_loss=loss
    )
    x = episode(2)
    x["support_y"][0, 1] = ignored
    path = written(meta_model, x, tmp_path / "model.tflite")
    assert_equals_predict(meta_model, path, x)
    assert_built_in(path)
    x["support_y"][0, 1] = 3
    with pytest.raises(RuntimeError, match="index out of bounds"):
        on_device(path, x)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(keras_maml.algorithms.__all__))
def test_algorithms(name, tmp_path):
    learner = small_mlp(2, 3, batch_norm=True)
    if name == "cavia":
        context = keras_maml.ContextParameters(2)
        learner = keras.Sequential([keras.Input((2,)), context, learner])
    meta_model = getattr(keras_maml.algorithms, name)(
        learner,
        evaluation_steps=2,
        inner_loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    classes = {"n_way": 3} if meta_model.head_init else {}
    path = tmp_path / "model.tflite"
    written(meta_model, episode(2), path, **classes)
    assert_equals_predict(meta_model, path, episode(2))
    assert_built_in(path)


# Volumes of images in time have more axes than LiteRT multiplies; random
# croppings predict other shapes; spectra are complex numbers.
REFUSED = {
    "ConvLSTM3D": "dense",
    "MelSpectrogram": "mel_spectrogram",
    "CategoryEncoding": "category_encoding",
}
# Its gradient explodes in two steps.
LAYERS = [
    name
    for name in layers_table.CASES
    if name not in (*layers_table.FIRST, "RandomCrop", "STFTSpectrogram")
]


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.filterwarnings("ignore:Layer 'flatten.*mask attached")
def test_layers(name, tmp_path):
    meta_model = keras_maml.MetaModel(
        layers_table.learner(name), inner_optimizer=0.1, inner_loss="mse"
    )
    x, _ = layers_table.meta_batch(name, tasks=1)
    path = tmp_path / "model.tflite"
    if name in REFUSED:
        with pytest.raises(ValueError, match=f"layer '{REFUSED[name]}"):
            written(meta_model, x, path)
        return
    written(meta_model, x, path)
    assert_equals_predict(meta_model, path, x)
    assert_built_in(path)
