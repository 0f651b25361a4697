"""`from_tfds`, on datasets that the tests prepare in TFDS's own format."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from keras_maml import tasks


def image(number):
    """An image that says its own number, below 256."""
    pixels = np.zeros([4, 4, 3], "uint8")
    pixels[0, 0] = number
    return pixels


def write(path, base, splits):
    """Writes a dataset of the builder `base`, with these examples.

    Args:
        path: where to.
        base: class of the builder that describes the dataset.
        splits: dictionary from a split's name to its examples.
    """

    class Builder(base, skip_registration=True):
        def _split_generators(self, dl_manager):
            del dl_manager
            return {
                split: self._generate_examples(examples)
                for split, examples in splits.items()
            }

        def _generate_examples(self, examples):
            yield from enumerate(examples)

    Builder.name = base.name
    Builder(data_dir=path).download_and_prepare()
    return path


def prepare(path, splits, label=None, stored_image=None):
    """Writes a dataset by the name of `shapes`.

    Args:
        path: where to.
        splits: dictionary from a split's name to its (image, label) pairs.
        label: the label's feature. Defaults to three named classes.
        stored_image: the image's feature. Defaults to PNG.
    """
    features = tfds.features.FeaturesDict(
        {
            "image": stored_image or tfds.features.Image(shape=(None, None, 3)),
            "label": label
            or tfds.features.ClassLabel(names=["round", "square", "star"]),
            "id": tfds.features.Text(),
        }
    )

    class Shapes(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        name = "shapes"

        def _info(self):
            return self.dataset_info_from_configs(features=features)

    examples = {
        split: [
            {"image": pixels, "label": label, "id": "x"}
            for pixels, label in pairs
        ]
        for split, pairs in splits.items()
    }
    return write(path, Shapes, examples)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """Splits that share their labels; `small` repeats three of `train`."""
    train = [(image(number), number % 3) for number in range(30)]
    # Two drawings of one class may well be equal.
    train.append((image(0), 0))
    test = [(image(number), number % 2) for number in range(100, 110)]
    return prepare(
        tmp_path_factory.mktemp("data"),
        {"train": train, "test": test, "small": train[3:6]},
    )


def numbers(pool):
    return sorted(pool.x[:, 0, 0, 0].tolist())


def test_all_splits_are_merged_and_repetitions_kept_once(shapes):
    pool = tasks.from_tfds("shapes", data_dir=shapes)
    assert numbers(pool) == sorted([0, *range(30), *range(100, 110)])
    assert pool.class_names == ["round", "square", "star"]
    assert pool.counts.tolist() == [16, 15, 10]
    assert pool.x.dtype == np.uint8


@pytest.mark.parametrize(
    ("splits", "expected"),
    [
        ("small", [3, 4, 5]),
        ("test", range(100, 110)),
        (["test", "small"], [3, 4, 5, *range(100, 110)]),
        ("test+small", [3, 4, 5, *range(100, 110)]),
        ("train+small", [0, *range(30)]),
        (["small", "train"], [0, *range(30)]),
        (["test", "test"], range(100, 110)),
    ],
)
def test_splits(shapes, splits, expected):
    pool = tasks.from_tfds("shapes", splits=splits, data_dir=shapes)
    assert numbers(pool) == list(expected)


def test_part_of_a_split(shapes):
    part = tasks.from_tfds("shapes", splits="test[:30%]", data_dir=shapes)
    rest = tasks.from_tfds("shapes", splits="test[30%:]", data_dir=shapes)
    assert len(part.x) == 3
    assert sorted(numbers(part) + numbers(rest)) == list(range(100, 110))


def test_labels_belong_to_their_images(shapes):
    source = tasks.from_tfds("shapes", data_dir=shapes).episodes(3, 2, 2)
    for index in range(5):
        names = source.classes(index)
        x, y = source.episode(index)
        for pixels, label in zip(
            [*x["support_x"], *x["query_x"]], [*x["support_y"], *y], strict=True
        ):
            number = round(255 * pixels[0, 0, 0])
            expected = number % 2 if number >= 100 else number % 3
            assert names[label] == ["round", "square", "star"][expected]


def test_preprocess(shapes):
    pool = tasks.from_tfds(
        "shapes",
        splits="small",
        data_dir=shapes,
        preprocess=lambda pixels: tf.cast(pixels[:1, :1, :1], tf.float32),
    )
    assert pool.x.shape == (3, 1, 1, 1)
    assert sorted(pool.x.reshape(-1)) == [3, 4, 5]


def test_data_dir_from_the_environment(shapes, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(shapes))
    assert len(tasks.from_tfds("shapes", splits="small").x) == 3


def test_loading_is_repeatable(shapes):
    first, second = (tasks.from_tfds("shapes", data_dir=shapes).x for _ in "12")
    np.testing.assert_array_equal(first, second)


def test_text_labels_and_plain_tensors(tmp_path):
    pairs = [
        (np.full([2, 2], number, "float32"), "odd" if number % 2 else "even")
        for number in range(6)
    ]
    prepare(
        tmp_path,
        {"train": pairs, "again": pairs[:2]},
        label=tfds.features.Text(),
        stored_image=tfds.features.Tensor(shape=(2, 2), dtype=np.float32),
    )
    pool = tasks.from_tfds("shapes", data_dir=tmp_path)
    assert pool.class_names == ["even", "odd"]
    assert pool.x.shape == (6, 2, 2)
    assert sorted(pool.x[:, 0, 0]) == [0, 1, 2, 3, 4, 5]


def test_own_keys(shapes):
    pool = tasks.from_tfds(
        "shapes", splits="small", data_dir=shapes, label_key="id"
    )
    assert pool.class_names == ["x"]


def test_images_of_two_sizes_are_named(tmp_path):
    pairs = [(np.zeros([4, 4, 3], "uint8"), 0)] * 2
    prepare(tmp_path, {"train": [*pairs, (np.zeros([4, 5, 3], "uint8"), 0)]})
    with pytest.raises(
        ValueError, match=r"`preprocess`.*of train of 'shapes'.*\(4, 5, 3\)"
    ):
        tasks.from_tfds("shapes", data_dir=tmp_path)


def test_failing_preprocess_names_the_example(shapes):
    def fail(pixels):
        with tf.control_dependencies(
            [tf.debugging.assert_less(pixels[0, 0, 0], tf.constant(5, "uint8"))]
        ):
            return tf.identity(pixels)

    with pytest.raises(ValueError, match=r"example \d of small of 'shapes'"):
        tasks.from_tfds(
            "shapes", splits="small", data_dir=shapes, preprocess=fail
        )


class UnreachableShapes(tfds.core.GeneratorBasedBuilder):
    """A dataset whose download fails."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict({"image": np.uint8})
        )

    def _split_generators(self, dl_manager):
        raise ConnectionError("the network is away")

    def _generate_examples(self):
        raise NotImplementedError


def test_failing_download(tmp_path):
    with pytest.raises(ValueError, match="the network is away") as caught:
        tasks.from_tfds("unreachable_shapes", data_dir=tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert isinstance(caught.value.__cause__, ConnectionError)


def test_dataset_that_is_not_there_and_may_not_be_downloaded(tmp_path):
    with pytest.raises(ValueError, match="Received: download=False") as caught:
        tasks.from_tfds("omniglot", data_dir=tmp_path, download=False)
    assert str(tmp_path) in str(caught.value)


def test_omniglot_of_a_few_classes(tmp_path):
    """As TFDS's own builder stores it: its version, features and names."""
    rng = np.random.default_rng(0)
    drawings = [
        {
            "image": 255 * rng.integers(0, 2, (105, 105, 3), dtype="uint8"),
            "alphabet": label // 3,
            "alphabet_char_id": label % 3,
            "label": label,
        }
        for label in range(6)
        for _ in range(4)
    ]
    write(
        tmp_path,
        tfds.builder_cls("omniglot"),
        {
            "train": drawings[:16],
            "test": drawings[16:],
            "small1": drawings[:8],
            "small2": drawings[4:12],
        },
    )
    pool = tasks.from_tfds(
        "omniglot",
        data_dir=tmp_path,
        download=False,
        preprocess=tasks.preprocess_omniglot,
    )
    assert pool.class_names == ["0", "1", "2", "3", "4", "5"]
    assert pool.counts.tolist() == [4] * 6
    expected = np.stack(
        [tasks.preprocess_omniglot(example["image"]) for example in drawings]
    )
    assert pool.x.shape == expected.shape == (24, 28, 28, 1)
    np.testing.assert_array_equal(
        np.unique(pool.x, axis=0), np.unique(expected, axis=0)
    )


@pytest.mark.omniglot
def test_omniglot(omniglot_data_dir):
    pool = tasks.from_tfds(
        "omniglot",
        data_dir=omniglot_data_dir,
        download=False,
        preprocess=tasks.preprocess_omniglot,
    )
    assert pool.num_classes == 1623
    assert (pool.counts == 20).all()
    assert pool.x.shape == (20 * 1623, 28, 28, 1)
    assert 0.07 < pool.x.mean() / 255 < 0.09
    parts = pool.split(1100, 100, 423, seed=0)
    names = [set(part.class_names) for part in parts]
    assert len(set.union(*names)) == 1623
    x, y = parts[2].episodes(20, 5, 15, rotations=True).episode(0)
    assert x["support_x"].shape == (100, 28, 28, 1)
    assert y.shape == (300,)
