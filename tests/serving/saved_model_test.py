"""The exported SavedModel, in a process of its own without this library."""

import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_maml
from keras_maml.serving import AdaptiveModel
from keras_maml.serving.endpoints import joined
from keras_maml.serving.endpoints import paths
from tests.sample_models import class_batch
from tests.sample_models import regression_batch
from tests.sample_models import small_mlp

# Of each folder: loads a SavedModel, adapts to the tasks of one file by some or
# all signatures, and writes another. Without Keras: an import of it fails.
CLIENT = """
import pathlib
import sys

sys.modules["keras"] = sys.modules["keras_maml"] = None

import numpy as np
import tensorflow as tf

which, *folders = sys.argv[1:]
for folder in map(pathlib.Path, folders):
    saved = tf.saved_model.load(folder / "saved").signatures
    serve = saved["serving_default"]
    _, arguments = serve.structured_input_signature
    assert len(serve.structured_outputs) == 1
    data = np.load(folder / "inputs.npz")
    results = {}
    for case in ("a", "b"):
        inputs = {key: tf.constant(data[f"{case}_{key}"]) for key in arguments}
        query = {k: v for k, v in inputs.items() if k.startswith("query_x")}
        support = {k: v for k, v in inputs.items() if k not in query}
        results[case] = serve(**inputs)
        weights = saved["adapt"](**support)
        results[case + "_named"] = saved["predict"](**query, **weights)
        if which == "all":
            results[case + "_both"] = saved["adapt_and_predict"](**inputs)
            adapt = saved["adapt_with_options"]
            tasks, examples = inputs["support_y"].shape
            options = {"inner_steps": tf.fill([tasks], -1)}
            if "support_weight" in adapt.structured_input_signature[1]:
                options["support_weight"] = tf.ones([tasks, examples])
            weights = adapt(**support, **options)
            results[case + "_options"] = saved["predict"](**query, **weights)
    arrays = {}
    for key, outputs in results.items():
        (arrays[key],) = outputs.values()
    np.savez(folder / "outputs.npz", **arrays)
"""


def prepare(folder, exported, original, batches):
    """Exports for the client; returns what the original predicts."""
    exported.export(folder / "saved", verbose=False)
    arrays = {
        f"{case}_{joined(key, path)}": value
        for case, x in batches.items()
        for key, values in x.items()
        for path, value in paths(values)
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
    return {
        name: (outputs, expected[name])
        for name, outputs in zip(cases, run_client(folders.values()))
    }


def run_client(folders, which="some"):
    """Returns the outputs of each folder."""
    command = [sys.executable, "-c", CLIENT, which, *folders]
    subprocess.run(command, check=True, cwd="/")
    return [dict(np.load(folder / "outputs.npz")) for folder in folders]


def assert_served(outputs, expected, signatures, rtol=1e-5):
    assert len(outputs) == signatures * len(expected)
    for name, output in outputs.items():
        np.testing.assert_allclose(
            output, expected[name.split("_")[0]], rtol=rtol, atol=1e-6
        )


@pytest.mark.parametrize("after", ["fit", "load", "loop"])
def test_serves_any_number_of_tasks_shots_and_queries(after, served):
    # `"loop"`: loops of inner steps.
    assert_served(*served[after], signatures=2)


def with_context():
    return keras.Sequential(
        [
            keras.Input((2,)),
            keras_maml.ContextParameters(3),
            keras.layers.Dense(5, activation="tanh"),
            keras.layers.Dense(3),
        ]
    )


def two_inputs():
    a, b = keras.Input((2,), name="a"), keras.Input((2,), name="b")
    joined = keras.layers.Concatenate()([a, b])
    return keras.Model({"a": a, "b": b}, keras.layers.Dense(3)(joined))


def frozen_norm():
    learner = small_mlp(2, 3, batch_norm=True)
    learner.layers[1].trainable = False
    return learner


def with_lora():
    learner = small_mlp(2, 3)
    learner.get_layer("body").enable_lora(2)
    return learner


def of_all_kinds():
    """Pairs of a name and a compiled model."""
    for name in keras_maml.algorithms.__all__:
        make = getattr(keras_maml.algorithms, name)
        settings = {"inner_steps": 2, "task_map": "loop"}
        if name == "cavia":
            yield name, make(with_context(), **settings)
            continue
        for batch_norm in (False, True):
            learner = small_mlp(2, 3, batch_norm=batch_norm)
            yield f"{name}, {batch_norm}", make(learner, **settings)
    for learner, settings in (
        (two_inputs(), {}),
        (two_inputs(), {"head_init": "prototypes"}),
        (frozen_norm(), {"normalization": "support"}),
        (with_lora(), {"adapted_weights": "lora"}),
        (small_mlp(2, 3), {"inner_loss": mean_loss}),
        *(
            (small_mlp(2, 3, batch_norm=True), {"normalization": mode})
            for mode in ("transductive", "support", "moving", "per_step")
        ),
    ):
        meta_model = keras_maml.MetaModel(
            learner, inner_optimizer=0.5, inner_steps=2, **settings
        )
        yield f"{learner.name}, {settings}", meta_model


@keras.saving.register_keras_serializable(package="keras_maml_tests")
def mean_loss(y_true, y_pred):
    """A loss with one value for all examples, which no weight fits."""
    losses = keras.losses.sparse_categorical_crossentropy(
        y_true, y_pred, from_logits=True
    )
    return tf.reduce_mean(losses)


@pytest.mark.slow
@pytest.mark.parametrize("loads", [False, True])
def test_all_kinds_of_models_are_served(loads, tmp_path):
    batches = {
        "a": class_batch(tasks=3)[0],
        "b": class_batch(tasks=1, n_way=3, k_shot=5, q_query=4, seed=1)[0],
    }
    folders, expected, names = [], [], []
    for name, meta_model in of_all_kinds():
        if loads and "lora" in name:
            continue
        meta_model.compile(
            keras.optimizers.SGD(0.1),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        inputs = batches
        if not isinstance(meta_model.learner, keras.Sequential):
            inputs = {
                case: {
                    key: value
                    if key == "support_y"
                    else {"a": value, "b": value}
                    for key, value in x.items()
                }
                for case, x in batches.items()
            }
        folder = tmp_path / str(len(folders))
        folder.mkdir()
        meta_model.fit(inputs["a"], class_batch(tasks=3)[1], verbose=0)
        exported = meta_model
        if loads:
            exported = saved_and_loaded(meta_model, folder)
        names.append(name)
        expected.append(prepare(folder, exported, meta_model, inputs))
        folders.append(folder)
    for name, outputs, wanted in zip(
        names, run_client(folders, "all"), expected
    ):
        print(name)
        assert_served(outputs, wanted, signatures=4, rtol=1e-4)


@pytest.mark.slow
def test_the_command_line_runs_every_signature(tmp_path):
    meta_model = keras_maml.MetaModel(small_mlp(), inner_loss="mse")
    x, _ = regression_batch(tasks=2)
    predicted = meta_model.predict(x, verbose=0)
    path = tmp_path / "sines" / "1"
    meta_model.export(path, verbose=False)
    for name, value in x.items():
        np.save(tmp_path / f"{name}.npy", value)
    np.save(tmp_path / "support_weight.npy", np.ones((2, 6), "float32"))
    np.save(tmp_path / "inner_steps.npy", np.full(2, -1, "int32"))

    def run(signature, *names):
        folder = tmp_path / signature
        command = [
            pathlib.Path(sys.executable).parent / "saved_model_cli",
            *("run", f"--dir={path}", "--tag_set=serve"),
            f"--signature_def={signature}",
            f"--outdir={folder}",
            "--inputs=" + ";".join(f"{n}={tmp_path}/{n}.npy" for n in names),
        ]
        subprocess.run(command, check=True, capture_output=True)
        for output in folder.iterdir():
            output.rename(tmp_path / output.name)
        return [output.stem for output in tmp_path.glob("weight_*.npy")]

    for signature, names in (
        ("serving_default", x),
        ("adapt_and_predict", x),
    ):
        run(signature, *names)
    weights = run("adapt", "support_x", "support_y")
    assert len(weights) == 4
    run("predict", "query_x", *weights)
    for name in ("output_0", "predictions"):
        np.testing.assert_allclose(
            np.load(tmp_path / f"{name}.npy"), predicted, rtol=1e-5
        )
    options = ("support_weight", "inner_steps")
    before = {name: np.load(tmp_path / f"{name}.npy") for name in weights}
    run("adapt_with_options", "support_x", "support_y", *options)
    for name, value in before.items():
        np.testing.assert_allclose(np.load(tmp_path / f"{name}.npy"), value)


@pytest.mark.parametrize(
    "normalization",
    [pytest.param("support", marks=pytest.mark.slow), "moving"],
)
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
    meta_model = keras_maml.MetaModel(
        small_mlp(), inner_loss=lambda y, p: tf.reduce_mean((p - y) ** 2)
    )
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
    # The loss gives one number for all examples, so they have no weights.
    model = AdaptiveModel(tmp_path / "saved")
    support = x["support_x"], x["support_y"]
    weights = model.adapt(*support, inner_steps=1)
    np.testing.assert_allclose(
        model.predict(x["query_x"], weights), served, rtol=1e-5, atol=1e-6
    )
    with pytest.raises(ValueError, match="inner loss has a value"):
        model.adapt(*support, support_weight=np.ones((1, 6)))


def test_several_inputs_have_names_of_their_own(tmp_path):
    a, b = keras.Input((2,), name="a"), keras.Input((3,), name="my b")
    both = keras.layers.Concatenate()([a, b])
    outputs = {name: keras.layers.Dense(1)(both) for name in ("one", "two")}
    learner = keras.Model({"a": a, "my b": b}, outputs)
    meta_model = keras_maml.MetaModel(
        learner, inner_loss=lambda y, p: (p["one"] - p["two"] - y) ** 2
    )
    rng = np.random.default_rng(0)

    def inputs(n):
        return {
            "a": rng.standard_normal((2, n, 2)).astype("f"),
            "my b": rng.standard_normal((2, n, 3)).astype("f"),
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
    model = AdaptiveModel(tmp_path / "saved")
    weights = model.adapt(x["support_x"], x["support_y"])
    named = model.predict(x["query_x"], weights)
    assert set(named) == {"predictions_one", "predictions_two"}
    for name, value in expected.items():
        for actual in (served[name], named[f"predictions_{name}"]):
            np.testing.assert_allclose(actual, value, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="each of .*_a', 'query_x_my_b'"):
        model.predict(x["query_x"]["a"], weights)
    _, arguments = loaded.signatures[
        "serving_default"
    ].structured_input_signature
    assert {
        "support_x_a",
        "support_x_my_b",
        "support_y",
        "query_x_a",
        "query_x_my_b",
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
