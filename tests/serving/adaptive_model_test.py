"""AdaptiveModel: a SavedModel that adapts, for Python programs."""

import concurrent.futures
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_maml
from keras_maml.serving import AdaptiveModel
from keras_maml.serving import adaptive_model
from tests.sample_models import class_batch
from tests.sample_models import small_mlp

GOLDEN = pathlib.Path(__file__).absolute().parent.parent / "golden" / "0.1"
X, _ = class_batch()
SUPPORT = (X["support_x"], X["support_y"])


@pytest.fixture(scope="module")
def meta_model():
    meta_model = keras_maml.MetaModel(
        small_mlp(2, 3, batch_norm=True),
        inner_optimizer=0.5,
        inner_steps=2,
        normalization="support",
    )
    meta_model.compile(
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    meta_model.call(X)
    return meta_model


@pytest.fixture(scope="module")
def folder(meta_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("classes")
    meta_model.export(folder / "9", verbose=False)
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return AdaptiveModel(folder)


def test_predicts_what_the_meta_model_predicts(model, meta_model):
    expected = meta_model.call(X)
    weights = model.adapt(*SUPPORT)
    assert set(weights) | {"query_x"} == set(model.specs["predict"])
    predictions = model.predict(X["query_x"], weights)
    np.testing.assert_allclose(predictions, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        model.adapt_and_predict(*SUPPORT, X["query_x"]), predictions, rtol=1e-5
    )
    # The statistics are those of the support set, so queries may come alone.
    np.testing.assert_allclose(
        model.predict(X["query_x"][:, 1:2], weights),
        predictions[:, 1:2],
        rtol=1e-5,
        atol=1e-6,
    )


def test_weights_and_numbers_of_steps(model, meta_model):
    padded = [np.concatenate([a, a[:, ::-1]], 1) for a in SUPPORT]
    weight = np.concatenate([np.ones((3, 6)), np.zeros((3, 6))], 1)
    padded[0][:, 6:] = np.nan
    steps = [0, 1, 4]
    weights = model.adapt(*padded, support_weight=weight, inner_steps=steps)
    actual = model.predict(X["query_x"], weights)
    x = {
        "support_x": padded[0],
        "support_y": padded[1],
        "support_weight": weight.astype("float32"),
        "query_x": X["query_x"],
    }
    for task, count in enumerate(steps):
        expected = meta_model.call(x, inner_steps=count)[task]
        np.testing.assert_allclose(actual[task], expected, atol=1e-5)
    for options in (
        {"inner_steps": 2},
        {"support_weight": np.ones((3, 6))},
        {"support_weight": np.ones((3, 6)), "inner_steps": None},
    ):
        weights = model.adapt(*SUPPORT, **options)
        for name, value in model.adapt(*SUPPORT).items():
            np.testing.assert_allclose(weights[name], value, atol=1e-5)


def test_integers_of_another_dtype_are_taken_if_they_fit():
    spec = tf.TensorSpec((None, None), tf.uint8)
    array = adaptive_model._checked_array("support_y", [[0, 255]], spec)
    assert array.dtype == np.uint8
    assert array.tolist() == [[0, 255]]
    for label in (-1, 256):
        with pytest.raises(ValueError, match="numbers of dtype uint8"):
            adaptive_model._checked_array("support_y", [[label]], spec)


def changed(index, change):
    """A support set with a change in its inputs or labels."""
    support = [np.array(array) for array in SUPPORT]
    support[index] = change(support[index])
    return support


def nan_in(task):
    def change(array):
        array[task, 0, 0] = np.nan
        return array

    return change


BAD_SUPPORT = {
    "another dtype": (changed(0, lambda x: x.astype(str)), "of dtype <U"),
    "labels that are floats": (
        changed(1, lambda y: y.astype(float)),
        "`support_y` must hold numbers of dtype int32.*float64",
    ),
    "labels that int32 does not hold": (
        changed(1, lambda y: y.astype("int64") + 2**32),
        "support_y of dtype int64",
    ),
    "another rank": (
        changed(0, lambda x: x[0]),
        r"`support_x` must have the shape \(None, None, 2\).*\(6, 2\)",
    ),
    "another width": (changed(0, lambda x: x[..., :1]), r"\(3, 6, 1\)"),
    "ragged lists": (([[[1.0, 2.0]], []], SUPPORT[1]), "must be an array"),
    "no example": (
        [array[:, :0] for array in SUPPORT],
        r"any number from 1.*\(3, 0, 2\)",
    ),
    "no task": ([array[:0] for array in SUPPORT], r"\(0, 6, 2\)"),
    "fewer labels": (
        changed(1, lambda y: y[:, :2]),
        "`support_x` and `support_y` must have the same number of examples",
    ),
    "fewer tasks": (
        changed(1, lambda y: y[:2]),
        "`support_x` and `support_y` must have the same number of tasks",
    ),
    "a label above": (
        changed(1, lambda y: y + 1),
        "`support_y` must hold class labels, integers from 0 to 2.*label 3",
    ),
    "a label below": (changed(1, lambda y: y - 1), "with the label -1 in task"),
    "NaN": (
        changed(0, nan_in(1)),
        "All numbers must be finite.*not finite in support_x in task 1",
    ),
    "a million examples": (
        (np.zeros((1, 10**6, 2), "f"), np.zeros((1, 10**6), "int32")),
        "at most 10000 examples of a task.*1000000",
    ),
    "numbers that diverge": (
        changed(0, lambda x: x * 1e30),
        "`support_x` and `support_y` as in training.*in weight_0",
    ),
}
BAD_OPTIONS = {
    "a negative weight": (
        {"support_weight": np.full((3, 6), -1.0)},
        "`support_weight` must hold finite numbers of at least 0.*task 0",
    ),
    "no example that counts": (
        {"support_weight": np.eye(3, 6) * [[1], [1], [0]]},
        "in each task one above 0.*task 2",
    ),
    "NaN as a weight": ({"support_weight": np.full((3, 6), np.nan)}, "finite"),
    "a weight for each task": (
        {"support_weight": np.ones(3)},
        r"`support_weight` must have the shape \(None, None\)",
    ),
    "fewer weights": (
        {"support_weight": np.ones((3, 5))},
        "and `support_weight` must have the same number of examples",
    ),
    "a negative number of steps": (
        {"inner_steps": -2},
        "`inner_steps` must be a number from 0 to 1000",
    ),
    "a million steps": ({"inner_steps": 10**6}, "from 0 to 1000.*1000000"),
    "half a step": ({"inner_steps": 0.5}, "`inner_steps`.*int32"),
    "steps of other tasks": (
        {"inner_steps": [1, 2]},
        "the same number of task",
    ),
}


@pytest.mark.parametrize("kind", BAD_SUPPORT)
def test_a_bad_support_set_is_named(kind, model):
    support, message = BAD_SUPPORT[kind]
    for function in (
        model.adapt,
        lambda *support: model.adapt(*support, inner_steps=1),
        lambda *support: model.adapt_and_predict(*support, X["query_x"]),
    ):
        # Where queries are passed, their tasks are named too.
        anyhow = message.replace("`support_x` and `support_y` must", ".* must")
        anyhow = anyhow.replace("in weight_0", "")
        with pytest.raises(ValueError, match=f"(?s){anyhow}"):
            function(*support)


@pytest.mark.parametrize("kind", BAD_OPTIONS)
def test_a_bad_option_is_named(kind, model):
    options, message = BAD_OPTIONS[kind]
    with pytest.raises(ValueError, match=message):
        model.adapt(*SUPPORT, **options)


def test_bad_queries_and_weights_are_named(model):
    query, weights = X["query_x"], model.adapt(*SUPPORT)
    nan = {name: np.full_like(value, np.nan) for name, value in weights.items()}
    some = dict(list(weights.items())[1:])
    turned = {**weights, "weight_0_kernel": weights["weight_6_kernel"]}
    for arguments, message in (
        ((query * np.nan, weights), "finite.*in query_x in task 0"),
        ((query[:, :0], weights), r"\(3, 0, 2\)"),
        ((query[:2], weights), "the same number of tasks.*2 3 3"),
        ((query.astype(complex), weights), "`query_x`.*complex"),
        ((np.zeros((3, 10**6, 2), "f"), weights), "in several calls"),
        ((query, None), "`weights` must be a dict.*weights=None"),
        ((query, some), "keys that `adapt` returns.*Received: weights="),
        ((query, {**weights, "a": 1}), "Received: weights=.'a'"),
        ((query, nan), "finite.*in weight_0_kernel in task 0"),
        ((query, turned), r"`weight_0_kernel` must have the shape"),
    ):
        with pytest.raises(ValueError, match=f"(?s){message}"):
            model.predict(*arguments)


def test_what_is_no_model_of_this_library_is_refused(tmp_path):
    tf.saved_model.save(tf.Module(), tmp_path / "other")
    damaged = tmp_path / "damaged" / "1"
    damaged.mkdir(parents=True)
    (damaged / "saved_model.pb").write_bytes(b"not a model")
    for path, message in (
        (__file__, "folder of a SavedModel.*_test.py"),
        (tmp_path / "none", "folder of a SavedModel.*none"),
        (tmp_path, "whose names are numbers"),
        (tmp_path / "damaged", "cannot load the SavedModel"),
        (tmp_path / "other", r"has no signatures \['adapt'"),
        (GOLDEN / "maml_saved_model", "an earlier version.*'serving_default'"),
        (GOLDEN / "maml.keras", "folder of a SavedModel"),
    ):
        with pytest.raises(ValueError, match=f"(?s){message}"):
            AdaptiveModel(path)
    with pytest.raises(ValueError, match="max_examples=0"):
        AdaptiveModel(tmp_path, max_examples=0)


def test_the_newest_version_is_loaded(folder, tmp_path):
    (tmp_path / "9").symlink_to(folder / "9")
    for name in ("10", "latest"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "saved_model.pb").write_bytes(b"not a model")
    with pytest.raises(ValueError, match="cannot load"):
        AdaptiveModel(tmp_path)
    (tmp_path / "10" / "saved_model.pb").unlink()
    AdaptiveModel(tmp_path)


def test_threads_get_the_weights_of_their_own_users(model):
    random = np.random.default_rng(0)
    users = [
        (
            random.normal(size=(1, size, 2)).astype("f"),
            random.integers(0, 3, (1, size), "int32"),
        )
        for size in range(2, 10)
    ]
    expected = [model.adapt(*user) for user in users]

    def serve(number):
        for _ in range(25):
            weights = model.adapt(*users[number])
            for name, value in expected[number].items():
                np.testing.assert_array_equal(weights[name], value)
        return number

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(serve, range(8))) == list(range(8))


LONG = """
import pathlib
import sys

import numpy as np

from keras_maml.serving import AdaptiveModel

model = AdaptiveModel(sys.argv[1])
random = np.random.default_rng(0)


def megabytes():
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


for call in range(2001):
    tasks, support, query = random.integers(1, 20, 3)
    x = random.normal(size=(tasks, support, 2)).astype("f")
    y = random.integers(0, 3, (tasks, support), "int32")
    options = {} if call % 2 else {"inner_steps": int(random.integers(5))}
    weights = model.adapt(x, y, **options)
    model.predict(random.normal(size=(tasks, query, 2)), weights)
    if call in (500, 2000):
        print(f"{call} calls: {megabytes():.1f} MB")
"""


@pytest.mark.slow
def test_memory_is_flat(folder):
    done = subprocess.run(
        [sys.executable, "-c", LONG, folder],
        check=True,
        capture_output=True,
        text=True,
        cwd=GOLDEN.parent.parent.parent,
    )
    print(done.stdout)
    first, last = (float(line.split()[2]) for line in done.stdout.splitlines())
    assert last - first < 10
