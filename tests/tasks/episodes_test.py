"""Episodes, checked on examples that carry their own number."""

import numpy as np
import pytest

from keras_maml import tasks

WAYS, SHOTS, QUERIES, COUNT = 4, 2, 3, 3000
# Unbalanced: the smallest class is used up by each episode it is in.
SIZES = np.array([5, 6, 9, 30, 7, 5, 12])
CLASS_OF = np.random.default_rng(0).permutation(
    np.repeat(np.arange(len(SIZES)), SIZES)
)


@pytest.fixture(scope="module")
def drawn():
    x = np.arange(len(CLASS_OF))[:, None]
    pool = tasks.from_arrays(x, CLASS_OF)
    source = pool.episodes(WAYS, SHOTS, QUERIES, seed=3)
    x, query_y = next(iter(source.batch(COUNT, count=COUNT)))
    return {
        "support": x["support_x"].numpy()[..., 0],
        "support_y": x["support_y"].numpy(),
        "query": x["query_x"].numpy()[..., 0],
        "query_y": query_y.numpy(),
    }


def episode_classes(drawn):
    """The class behind each label of each episode, `(episodes, n_way)`."""
    order = np.argsort(drawn["support_y"], axis=1, kind="stable")
    rows = np.take_along_axis(drawn["support"], order, axis=1)
    return CLASS_OF[rows[:, ::SHOTS]]


def assert_uniform(counts):
    """Chi-square, to about one in ten thousand."""
    counts = np.asarray(counts, "float64").reshape(-1)
    expected = counts.mean()
    statistic = ((counts - expected) ** 2 / expected).sum()
    freedom = len(counts) - 1
    assert statistic < freedom + 4 * np.sqrt(2 * freedom) + 8


def test_labels_name_classes(drawn):
    classes = episode_classes(drawn)
    for part in ("support", "query"):
        behind = np.take_along_axis(classes, drawn[f"{part}_y"], axis=1)
        np.testing.assert_array_equal(behind, CLASS_OF[drawn[part]])
    # And no two labels the same class.
    assert (np.diff(np.sort(classes, axis=1), axis=1) > 0).all()


def test_each_label_has_its_shots_and_queries(drawn):
    for part, size in (("support_y", SHOTS), ("query_y", QUERIES)):
        expected = np.repeat(np.arange(WAYS), size)
        assert (np.sort(drawn[part], axis=1) == expected).all()
        assert drawn[part].dtype == np.int32


def test_support_and_query_never_share_an_example(drawn):
    rows = np.concatenate([drawn["support"], drawn["query"]], axis=1)
    assert (np.diff(np.sort(rows, axis=1), axis=1) > 0).all()


def test_classes_are_drawn_uniformly(drawn):
    assert_uniform(np.bincount(episode_classes(drawn).reshape(-1)))


def test_labels_are_drawn_anew_for_each_class(drawn):
    classes = episode_classes(drawn)
    counts = np.zeros([len(SIZES), WAYS])
    for label in range(WAYS):
        counts[:, label] = np.bincount(classes[:, label], minlength=len(SIZES))
    assert_uniform(counts)


def test_the_order_of_classes_does_not_tell_the_label(drawn):
    # Sorted classes or labels are the leak that an accuracy before adaptation
    # above 1 / n_way gives away: predict the label from the class's rank.
    classes = episode_classes(drawn)
    rank = np.argsort(np.argsort(classes, axis=1), axis=1)
    agree = (rank == np.arange(WAYS)).mean()
    assert abs(agree - 1 / WAYS) < 4 * np.sqrt(
        (1 / WAYS) * (1 - 1 / WAYS) / rank.size
    )


@pytest.mark.parametrize("part", ["support_y", "query_y"])
def test_the_place_of_a_row_does_not_tell_its_label(drawn, part):
    counts = [np.bincount(column) for column in drawn[part].T]
    assert_uniform(counts)


def test_the_order_of_the_support_does_not_tell_that_of_the_query(drawn):
    agree = drawn["support_y"] == drawn["query_y"][:, : WAYS * SHOTS]
    assert abs(agree.mean() - 1 / WAYS) < 4 * np.sqrt(0.19 / agree.size)


def test_orders_differ_also_if_support_and_query_are_of_one_size():
    pool = tasks.from_arrays(np.arange(24)[:, None], np.arange(24) % 4)
    source = pool.episodes(4, 3, 3)
    x, query_y = next(iter(source.batch(500, count=500)))
    agree = x["support_y"].numpy() == query_y.numpy()
    assert abs(agree.mean() - 1 / 4) < 4 * np.sqrt(0.19 / agree.size)


@pytest.mark.parametrize("part", ["support", "query"])
def test_the_examples_of_a_class_are_drawn_uniformly(drawn, part):
    counts = np.bincount(drawn[part].reshape(-1), minlength=len(CLASS_OF))
    for number in range(len(SIZES)):
        assert_uniform(counts[number == CLASS_OF])


def test_classes_by_label():
    names = [f"class {number}" for number in range(len(SIZES))]
    pool = tasks.from_arrays(
        np.arange(len(CLASS_OF))[:, None], CLASS_OF, class_names=names
    )
    source = pool.episodes(5, 1, 1)
    for index in (0, 100):
        x, y = source.episode(index)
        got = source.classes(index)
        for row, label in zip(x["query_x"][:, 0], y, strict=True):
            assert got[label] == names[CLASS_OF[row]]


def test_all_classes_and_all_examples():
    x = np.arange(6)[:, None]
    source = tasks.from_arrays(x, [0, 0, 1, 1, 2, 2]).episodes(3, 1, 1)
    for index in range(20):
        episode, _ = source.episode(index)
        rows = np.concatenate([episode["support_x"], episode["query_x"]])
        assert sorted(rows[:, 0]) == [0, 1, 2, 3, 4, 5]


def turns_of(image, original):
    """By how many quarters `original` was turned to give `image`."""
    (turns,) = [
        number
        for number in range(4)
        if np.array_equal(image, np.rot90(original, number))
    ]
    return turns


def image_pool():
    rng = np.random.default_rng(0)
    images = rng.uniform(size=(40, 5, 5, 3)).astype("float32")
    # One pixel in the middle, which no rotation moves, carries the number.
    images[:, 2, 2, :] = np.arange(40)[:, None]
    return images, tasks.from_arrays(images, np.repeat(np.arange(8), 5))


def test_rotations_are_drawn_for_each_class_of_an_episode():
    images, pool = image_pool()
    source = pool.episodes(4, 2, 3, rotations=True)
    x, y = next(source.batch(200, count=200).as_numpy_iterator())
    counts = np.zeros([4, 4])
    for task in range(200):
        turned = {}
        for image, label in zip(
            [*x["support_x"][task], *x["query_x"][task]],
            [*x["support_y"][task], *y[task]],
            strict=True,
        ):
            turns = turns_of(image, images[int(image[2, 2, 0])])
            turned.setdefault(label, set()).add(turns)
        for label, turns in turned.items():
            # Support and query of a class are turned alike.
            (turns,) = turns
            counts[label, turns] += 1
    assert_uniform(counts)


def test_without_rotations_nothing_is_turned():
    images, pool = image_pool()
    x, _ = pool.episodes(4, 2, 3).episode(0)
    for image in x["support_x"]:
        np.testing.assert_array_equal(image, images[int(image[2, 2, 0])])


def test_rotations_as_classes():
    images, pool = image_pool()
    source = pool.with_rotations().episodes(32, 1, 1)
    x, y = source.episode(0)
    names = source.classes(0)
    assert len(set(names)) == 32
    for image, label in zip(
        [*x["support_x"], *x["query_x"]], [*x["support_y"], *y], strict=True
    ):
        number = int(image[2, 2, 0])
        degrees = 90 * turns_of(image, images[number])
        name = str(number // 5)
        if degrees:
            name += f" turned by {degrees} degrees"
        assert names[label] == name


def test_uint8_rotations_equal_those_of_the_scaled_images():
    images, _ = image_pool()
    images = (images * 6).astype("uint8")
    labels = np.repeat(np.arange(8), 5)
    bytes_, floats = (
        tasks.from_arrays(x, labels).episodes(4, 2, 3, rotations=True)
        for x in (images, images / np.float32(255))
    )
    for index in range(3):
        np.testing.assert_allclose(
            bytes_.episode(index)[0]["support_x"],
            floats.episode(index)[0]["support_x"],
            rtol=1e-6,
        )
