"""A table of impossible input and what the error says about it."""

import math
import os

import numpy as np
import pytest
import tensorflow as tf

from keras_maml import tasks
from keras_maml import tasks as t

X = np.zeros([12, 4, 4, 1], "float32")
LABELS = np.repeat(np.arange(4), 3)


def pool(x=X, labels=LABELS):
    return t.from_arrays(x, labels)


def with_value(value):
    x = X.copy()
    x[5, 0, 0, 0] = value
    return x


WIDE = np.zeros([12, 4, 5, 1], "float32")
FLAT = np.zeros([12, 4], "float32")
NAN, INF = math.nan, math.inf
EYE = np.eye(4)

# What is called; what its message must contain, in this order.
TABLE = {
    # Streams.
    "tasks 0": (lambda: t.Sinusoid().batch(0), "`tasks`", "tasks=0"),
    "tasks float": (lambda: t.Sinusoid().batch(2.0), "`tasks`", "tasks=2.0"),
    "tasks bool": (lambda: t.Sinusoid().batch(True), "`tasks`", "tasks=True"),
    "count 0": (lambda: t.Sinusoid().batch(1, count=0), "`count`", "count=0"),
    "count str": (lambda: t.Sinusoid().batch(1, "2"), "`count`", "count='2'"),
    "start -1": (lambda: t.Sinusoid().batch(1, start=-1), "`start`", "=-1"),
    "start None": (
        lambda: t.Sinusoid().batch(1, start=None),
        "`start`",
        "start=None",
    ),
    "index -1": (lambda: t.Sinusoid().episode(-1), "`index`", "index=-1"),
    "index float": (lambda: t.Sinusoid().episode(0.5), "`index`", "=0.5"),
    "seed -1": (lambda: t.TaskDistribution(-1), "`seed`", "seed=-1"),
    "seed float": (lambda: t.TaskDistribution(1.5), "`seed`", "seed=1.5"),
    "seed 2**32": (lambda: t.TaskDistribution(2**32), "`seed`", "4294967296"),
    # Sinusoid.
    "k_shot": (lambda: t.Sinusoid(0), "`k_shot`", "k_shot=0"),
    "q_query": (lambda: t.Sinusoid(1, -3), "`q_query`", "q_query=-3"),
    "amplitude": (
        lambda: t.Sinusoid(amplitude=(5, 1)),
        "`amplitude`",
        "amplitude=(5, 1)",
    ),
    "phase": (lambda: t.Sinusoid(phase=3.0), "`phase`", "phase=3.0"),
    "phase three": (
        lambda: t.Sinusoid(phase=(0, 1, 2)),
        "`phase`",
        "(0, 1, 2)",
    ),
    "x_range": (lambda: t.Sinusoid(x_range=(0, NAN)), "`x_range`", "nan"),
    "noise": (lambda: t.Sinusoid(noise=-0.1), "`noise`", "noise=-0.1"),
    "noise inf": (lambda: t.Sinusoid(noise=INF), "`noise`", "noise=inf"),
    "noise str": (lambda: t.Sinusoid(noise="0"), "`noise`", "noise='0'"),
    "sinusoid index": (lambda: t.Sinusoid().parameters(-1), "`index`", "=-1"),
    "sinusoid seed": (lambda: t.Sinusoid(seed=None), "`seed`", "seed=None"),
    # GaussianTasks.
    "gauss k_shot": (lambda: t.GaussianTasks(0), "`k_shot`", "k_shot=0"),
    "gauss q_query": (lambda: t.GaussianTasks(1, 0), "`q_query`", "q_query=0"),
    "gauss kind": (
        lambda: t.GaussianTasks(kind="points"),
        "`kind`",
        "density",
        "regression",
        "kind='points'",
    ),
    "dimension": (lambda: t.GaussianTasks(dimension=0), "`dimension`", "=0"),
    "gauss noise": (lambda: t.GaussianTasks(noise=-1), "`noise`", "noise=-1"),
    "covariance shape": (
        lambda: t.GaussianTasks(covariance=np.eye(3)),
        "`covariance`",
        "(4, 4)",
        "(3, 3)",
    ),
    "covariance text": (
        lambda: t.GaussianTasks(covariance="wide"),
        "`covariance`",
        "(4, 4)",
    ),
    "covariance nan": (
        lambda: t.GaussianTasks(covariance=EYE * NAN),
        "`covariance`",
        "NaN",
    ),
    "covariance asymmetric": (
        lambda: t.GaussianTasks(covariance=EYE + np.eye(4, k=1)),
        "`covariance`",
        "not symmetric",
    ),
    "covariance negative": (
        lambda: t.GaussianTasks(covariance=-EYE),
        "`covariance`",
        "eigenvalue of -1",
    ),
    "gauss parameters": (
        lambda: t.GaussianTasks().parameters("0"),
        "`index`",
        "index='0'",
    ),
    # Glyphs.
    "glyphs n_way": (lambda: t.Glyphs(0), "`n_way`", "n_way=0"),
    "glyphs k_shot": (lambda: t.Glyphs(5, 0), "`k_shot`", "k_shot=0"),
    "glyphs q_query": (lambda: t.Glyphs(5, 1, 0), "`q_query`", "q_query=0"),
    "glyphs split": (
        lambda: t.Glyphs(split="dev"),
        "`split`",
        "train",
        "validation",
        "test",
        "split='dev'",
    ),
    "image_size": (lambda: t.Glyphs(image_size=7), "`image_size`", "=7"),
    "variation": (lambda: t.Glyphs(variation=-1), "`variation`", "=-1"),
    # Pools.
    "text": (lambda: pool(np.full([12, 2], "a")), "`x`", "<U1"),
    "objects": (lambda: pool(np.full([12, 2], None)), "`x`", "object"),
    "rank 1": (lambda: pool(np.zeros([12])), "`x`", "(12,)"),
    "rank 0": (lambda: pool(3.0), "`x`", "()"),
    "empty": (lambda: pool(X[:0], LABELS[:0]), "`x`", "(0, 4, 4, 1)"),
    "nan": (lambda: pool(with_value(NAN)), "`x`", "1 of 12", "index 5"),
    "inf": (lambda: pool(with_value(-INF)), "`x`", "1 of 12", "index 5"),
    "too large": (
        lambda: pool(with_value(1.0).astype("float64") * 1e300),
        "`x`",
        "float32",
        "index 5",
    ),
    "lengths": (lambda: pool(X[:11]), "`x` and `labels`", "11", "12"),
    "one-hot": (lambda: pool(X, np.eye(12)), "`labels`", "(12, 12)"),
    "column": (lambda: pool(X, LABELS[:, None]), "`labels`", "(12, 1)"),
    "float labels": (lambda: pool(X, LABELS / 1.0), "`labels`", "float64"),
    "class_names": (
        lambda: t.from_arrays(X, LABELS, class_names=["a", "b"]),
        "`class_names`",
        "4 classes",
        "length 2",
    ),
    "preprocess shapes": (
        lambda: t.from_arrays(
            np.arange(1, 13)[:, None],
            LABELS,
            preprocess=lambda x: x[: x[0] % 2],
        ),
        "`preprocess`",
        "x[0] of shape (1,)",
        "x[1] of shape (0,)",
    ),
    "split sum": (
        lambda: pool().split(3, 2),
        "`sizes`",
        "4",
        "sizes=(3, 2)",
        "5",
    ),
    "split none": (lambda: pool().split(), "`sizes`", "sizes=()"),
    "split zero": (lambda: pool().split(2, 0), "`sizes`", "=0"),
    "split fraction": (lambda: pool().split(0.5, 0.5), "`sizes`", "=0.5"),
    "split seed": (lambda: pool().split(2, seed=-1), "`seed`", "seed=-1"),
    "split rotated": (
        lambda: pool().with_rotations().split(8, 8),
        "Split first",
        "16 classes",
        "12",
    ),
    "rotations twice": (
        lambda: pool().with_rotations().with_rotations(),
        "Add rotations once",
        "16 classes",
    ),
    "rotate oblong": (
        lambda: pool(WIDE).with_rotations(),
        "square",
        "(12, 4, 5, 1)",
    ),
    "rotate vectors": (
        lambda: pool(FLAT).with_rotations(),
        "square",
        "(12, 4)",
    ),
    "with_at_least 0": (lambda: pool().with_at_least(0), "`examples`", "=0"),
    "with_at_least 4": (
        lambda: pool().with_at_least(4),
        "largest has 3",
        "examples=4",
    ),
    # Episodes.
    "n_way 0": (lambda: pool().episodes(0, 1, 1), "`n_way`", "n_way=0"),
    "n_way 5": (
        lambda: pool().episodes(5, 1, 1),
        "`n_way`",
        "4 classes",
        "n_way=5",
    ),
    "n_way float": (lambda: pool().episodes(2.0, 1, 1), "`n_way`", "=2.0"),
    "k_shot 0": (lambda: pool().episodes(2, 0, 1), "`k_shot`", "k_shot=0"),
    "q_query 0": (lambda: pool().episodes(2, 1, 0), "`q_query`", "q_query=0"),
    "too few examples": (
        lambda: t.from_arrays(X, ["b", "a"] * 5 + ["few"] * 2).episodes(
            2, 1, 2
        ),
        "3 examples",
        "class 'few' has 2",
        "k_shot=1, q_query=2",
    ),
    "rotations str": (
        lambda: pool().episodes(2, 1, 1, rotations="yes"),
        "`rotations`",
        "rotations='yes'",
    ),
    "rotations oblong": (
        lambda: pool(WIDE).episodes(2, 1, 1, rotations=True),
        "square",
        "(12, 4, 5, 1)",
    ),
    "rotations of rotations": (
        lambda: pool().with_rotations().episodes(2, 1, 1, rotations=True),
        "already has rotations",
        "16 classes",
    ),
    "episodes seed": (
        lambda: pool().episodes(2, 1, 1, seed="a"),
        "`seed`",
        "seed='a'",
    ),
    "classes index": (
        lambda: pool().episodes(2, 1, 1).classes(-1),
        "`index`",
        "index=-1",
    ),
    # Datasets.
    "dataset": (
        lambda: t.from_tfds("no_such_dataset", data_dir="nowhere"),
        "`name`",
        "name='no_such_dataset'",
        "'nowhere'",
    ),
}


def assert_message(error, parts):
    message = str(error)
    assert "Received: " in message
    place = 0
    for part in parts:
        place = message.find(part, place)
        assert place >= 0, f"{part!r} is not in its place in: {message}"


@pytest.mark.parametrize("row", TABLE)
def test_bad_input(row):
    call, *parts = TABLE[row]
    with pytest.raises(ValueError) as caught:
        call()
    assert_message(caught.value, parts)


# What is in the folder (file to content, "png" for a 6×6 image, "large" for a
# 7×6 one), the arguments, and what the message must contain.
GOOD = {"a/1.png": "png", "a/2.png": "png"}
FOLDERS = {
    "empty folder": ({}, {}, ["`path`", ".png", "path="]),
    "no images": ({"a/notes.txt": "text"}, {}, ["`path`", "none"]),
    "image in no class": ({**GOOD, "0.png": "png"}, {}, ["0.png", "path="]),
    "unreadable": (
        {**GOOD, "b/3.png": "not a picture"},
        {},
        ["cannot be read", "Received: ", "b/3.png"],
    ),
    "empty file": (
        {**GOOD, "b/3.jpg": ""},
        {},
        ["cannot be read", "Received: ", "b/3.jpg"],
    ),
    "two sizes": (
        {**GOOD, "b/3.png": "large"},
        {},
        ["`image_size`", "1.png of shape (6, 6, 3)", "3.png", "(7, 6, 3)"],
    ),
    "color_mode": (
        GOOD,
        {"color_mode": "cmyk"},
        ["`color_mode`", "grayscale", "rgb", "color_mode='cmyk'"],
    ),
    "follow_links": (
        GOOD,
        {"follow_links": "yes"},
        ["`follow_links`", "follow_links='yes'"],
    ),
    "image_size 0": (GOOD, {"image_size": 0}, ["`image_size`", "=0"]),
    "image_size triple": (
        GOOD,
        {"image_size": (6, 6, 3)},
        ["`image_size`", "(6, 6, 3)"],
    ),
}


@pytest.mark.parametrize("row", FOLDERS)
def test_bad_folder(row, tmp_path):
    files, arguments, parts = FOLDERS[row]
    sizes = {"png": (6, 6, 3), "large": (7, 6, 3)}
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        if content in sizes:
            image = tf.zeros(sizes[content], tf.uint8)
            path.write_bytes(tf.io.encode_png(image).numpy())
        else:
            path.write_text(content)
    with pytest.raises(ValueError) as caught:
        tasks.from_folder(tmp_path, **arguments)
    assert_message(caught.value, parts)


def test_missing_folder(tmp_path):
    with pytest.raises(ValueError, match="must be a folder") as caught:
        tasks.from_folder(tmp_path / "none")
    assert_message(caught.value, ["path=", "none"])


# Links beneath the folder (path to what it leads to), whether they are
# followed, and what the message must contain.
LINKS = {
    "class": ({"b": "../other"}, False, ["follow_links=True", "root/b,"]),
    "image": (
        {"a/3.png": "../../other/1.png"},
        False,
        ["follow_links=True", "a/3.png,"],
    ),
    "deep": (
        {"c/d": "../../other", "e": "a"},
        False,
        ["follow_links=True", "c/d,"],
    ),
    "nowhere": ({"b": "../gone"}, False, ["follow_links=True", "root/b,"]),
    "followed nowhere": ({"b": "../gone"}, True, ["nowhere", "root/b"]),
    "image nowhere": ({"a/3.png": "gone"}, True, ["nowhere", "a/3.png"]),
    "loop to the root": ({"a/b": ".."}, True, ["loop", "root.", "a/b"]),
    "loop to itself": ({"b": "b"}, True, ["loop", "root/b"]),
    "loop of two": ({"d": "e", "e": "d"}, True, ["loop", "root/d"]),
    "loop from outside": ({"b": ".."}, True, ["loop", "root.", "b/root"]),
}


@pytest.mark.parametrize("row", LINKS)
def test_bad_links(row, tmp_path):
    links, follow_links, parts = LINKS[row]
    root = tmp_path / "root"
    for path in (root / "a", root / "c", tmp_path / "other"):
        path.mkdir(parents=True)
        image = tf.io.encode_png(tf.zeros([6, 6, 3], tf.uint8)).numpy()
        (path / "1.png").write_bytes(image)
    for path, target in links.items():
        (root / path).symlink_to(target)
    with pytest.raises(ValueError) as caught:
        tasks.from_folder(root, follow_links=follow_links)
    assert_message(caught.value, ["Received: ", parts[-1]])
    assert_message(caught.value, parts[:-1])


def test_pipe_named_as_an_image(tmp_path):
    (tmp_path / "a").mkdir()
    os.mkfifo(tmp_path / "a" / "1.png")
    with pytest.raises(ValueError, match="regular file") as caught:
        tasks.from_folder(tmp_path)
    assert_message(caught.value, ["Received: ", "a/1.png"])


@pytest.mark.parametrize("name", [b"a/\xff.png", b"\xff/1.png"])
def test_path_that_is_no_utf8(name, tmp_path):
    path = os.path.join(os.fsencode(tmp_path), name)
    try:
        os.mkdir(os.path.dirname(path))
        open(path, "w").close()
    except (OSError, UnicodeError):
        pytest.skip("This file system has no such names.")
    with pytest.raises(ValueError, match="must be UTF-8") as caught:
        tasks.from_folder(tmp_path)
    assert_message(caught.value, ["os.rename", "Received: ", repr(name)[2:]])
