import numpy as np
import pytest

from keras_maml import tasks


def make_pool(classes=10, examples=3):
    """A pool whose examples say their own number, their class by tens."""
    count = classes * examples
    x = np.arange(count, dtype="float32")[:, None, None, None]
    x = np.tile(x, [1, 4, 4, 1])
    return tasks.from_arrays(x, np.repeat(np.arange(classes), examples))


def test_classes_in_ascending_order_of_their_labels():
    pool = tasks.from_arrays(
        np.zeros([6, 2]), ["dog", "ant", "dog", "cat", "dog", "cat"]
    )
    assert pool.num_classes == 3
    assert pool.class_names == ["ant", "cat", "dog"]
    assert pool.counts.tolist() == [1, 2, 3]


def test_labels_need_not_be_consecutive():
    pool = tasks.from_arrays(np.zeros([4, 2]), [7, -1, 7, 100])
    assert pool.class_names == ["-1", "7", "100"]
    assert pool.counts.tolist() == [1, 2, 1]


def test_own_class_names():
    pool = tasks.ClassPool(np.zeros([3, 2]), [5, 4, 5], ["four", "five"])
    assert pool.class_names == ["four", "five"]
    assert pool.counts.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("given", "kept", "drawn", "scale"),
    [
        ("uint8", "uint8", "float32", 1 / 255),
        ("float64", "float32", "float32", 1),
        ("float16", "float32", "float32", 1),
        ("float32", "float32", "float32", 1),
        ("bool", "float32", "float32", 1),
        ("int64", "int64", "int64", 1),
        ("int32", "int32", "int32", 1),
    ],
)
def test_dtypes(given, kept, drawn, scale):
    x = np.arange(12).reshape(6, 2).astype(given)
    pool = tasks.from_arrays(x, [0, 0, 0, 1, 1, 1])
    assert pool.x.dtype == kept
    np.testing.assert_array_equal(pool.x, x)
    episode, _ = pool.episodes(2, 1, 2).episode(0)
    assert episode["support_x"].dtype == drawn
    got = np.concatenate([episode["support_x"], episode["query_x"]])
    got = got[np.lexsort(got.T[::-1])]
    np.testing.assert_allclose(got, x[np.lexsort(x.T[::-1])] * scale, rtol=1e-6)


def test_split_deals_out_every_class_once():
    pool = make_pool()
    parts = pool.split(5, 2, 3, seed=1)
    assert [part.num_classes for part in parts] == [5, 2, 3]
    names = [name for part in parts for name in part.class_names]
    assert sorted(names) == sorted(pool.class_names)
    assert names != pool.class_names


def test_split_examples_stay_with_their_class():
    # Unbalanced: class c has c + 2 examples.
    labels = np.repeat(np.arange(8), np.arange(8) + 2)
    x = np.arange(len(labels), dtype="float32")[:, None]
    first, second = tasks.from_arrays(x, labels).split(3, 5, seed=0)
    seen = {}
    for part in (first, second):
        assert part.counts.tolist() == [int(n) + 2 for n in part.class_names]
        source = part.episodes(3, 1, 1)
        # To ask for names starts a stream each time; to go on is cheap.
        for index in range(100):
            names = source.classes(index) if index == 1 else None
            episode, _ = source.episode(index)
            rows = episode["support_x"][:, 0].astype(int)
            for row, label in zip(rows, episode["support_y"], strict=True):
                seen.setdefault(row, part)
                assert seen[row] is part
                assert str(labels[row]) in part.class_names
                if names is not None:
                    assert str(labels[row]) == names[label]
    assert len(seen) > 0.8 * len(labels)


def test_split_depends_on_its_seed_alone():
    def split(seed):
        return [part.class_names for part in make_pool().split(4, 6, seed=seed)]

    assert split(0) == split(0)
    assert split(0) != split(1)
    # Frozen: a split has to be the same in ten years.
    assert split(0) == [
        ["2", "8", "4", "9"],
        ["1", "6", "7", "3", "0", "5"],
    ]


def test_split_may_leave_classes_out():
    (part,) = make_pool().split(4)
    assert part.num_classes == 4


def test_splits_share_the_memory_of_their_examples():
    pool = make_pool()
    first, second = pool.split(5, 5)
    assert np.shares_memory(first.x, pool.x)
    assert np.shares_memory(second.with_rotations().x, pool.x)


def test_with_rotations_adds_three_classes_for_each():
    pool = make_pool(classes=2).with_rotations()
    assert pool.num_classes == 8
    assert pool.counts.tolist() == [3] * 8
    assert pool.class_names[:3] == ["0", "1", "0 turned by 90 degrees"]
    assert pool.class_names[-1] == "1 turned by 270 degrees"


def test_with_at_least_leaves_out_small_classes():
    pool = tasks.from_arrays(np.zeros([6, 2]), [0, 1, 1, 2, 2, 2])
    kept = pool.with_at_least(2)
    assert kept.class_names == ["1", "2"]
    assert kept.counts.tolist() == [2, 3]
    assert kept.with_at_least(3).class_names == ["2"]
    assert kept.episodes(2, 1, 1).episode(0)[0]["support_x"].shape == (2, 2)


def test_with_at_least_of_a_rotated_pool():
    x = np.arange(5 * 4, dtype="float32").reshape(5, 2, 2, 1)
    pool = tasks.from_arrays(x, [0, 0, 0, 1, 1]).with_rotations()
    kept = pool.with_at_least(3)
    assert kept.num_classes == 4
    source = kept.episodes(4, 1, 2)
    episode, _ = source.episode(0)
    names = source.classes(0)
    for image, label in zip(
        episode["support_x"], episode["support_y"], strict=True
    ):
        turns = {"": 0, "90": 1, "180": 2, "270": 3}
        name = names[label].split(" turned by ")
        degrees = name[1].split()[0] if len(name) > 1 else ""
        candidates = [np.rot90(original, turns[degrees]) for original in x[:3]]
        assert any(np.array_equal(image, other) for other in candidates)
