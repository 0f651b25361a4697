"""What holds for every source of tasks: the stream is a list with numbers."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_maml import tasks
from keras_maml.tasks.task_distribution import BLOCK


def _pool():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (90, 6, 6, 1), dtype=np.uint8)
    return tasks.from_arrays(images, np.repeat(np.arange(15), 6))


SOURCES = {
    "sinusoid": lambda seed: tasks.Sinusoid(5, 7, noise=0.1, seed=seed),
    "density": lambda seed: tasks.GaussianTasks(3, 4, seed=seed),
    "regression": lambda seed: tasks.GaussianTasks(
        kind="regression", dimension=3, seed=seed
    ),
    "glyphs": lambda seed: tasks.Glyphs(3, 1, 2, image_size=12, seed=seed),
    "episodes": lambda seed: _pool().episodes(5, 1, 2, seed=seed),
    "rotations": lambda seed: _pool().episodes(
        5, 2, 1, rotations=True, seed=seed
    ),
    "rotated": lambda seed: (
        _pool().with_rotations().episodes(5, 1, 1, seed=seed)
    ),
}


@pytest.fixture(scope="module", params=SOURCES)
def make(request):
    """A function from a seed to a source."""
    return SOURCES[request.param]


@pytest.fixture(scope="module")
def source(make):
    """The source of seed 0, whose functions are traced once for all tests."""
    return make(0)


def episodes(dataset):
    """The episodes of a stream of meta-batches, as `episode` returns them."""
    for x, y in dataset.as_numpy_iterator():
        for task in range(len(y)):
            yield {name: value[task] for name, value in x.items()}, y[task]


def assert_equal(first, second):
    assert first[0].keys() == second[0].keys()
    for name in first[0]:
        np.testing.assert_array_equal(first[0][name], second[0][name])
        assert first[0][name].dtype == second[0][name].dtype
    np.testing.assert_array_equal(first[1], second[1])


def assert_all_equal(first, second):
    for a, b in zip(first, second, strict=True):
        assert_equal(a, b)


@pytest.fixture(scope="module")
def stream(source):
    """The first episodes, into the second block."""
    return source.batch(16).take(5)


@pytest.fixture(scope="module")
def first(stream):
    return list(episodes(stream))


def test_meta_batches_hold_the_episodes_of_their_numbers(source, make, first):
    assert len(first) > BLOCK + 9
    # Across the end of a block, in and out of step with it.
    numbers = range(BLOCK - 5, BLOCK + 9)
    expected = first[BLOCK - 5 : BLOCK + 9]
    assert_all_equal([source.episode(number) for number in numbers], expected)
    again = make(0)
    for size in (4, 14):
        part = again.batch(size, count=len(numbers), start=numbers.start)
        assert_all_equal(episodes(part), expected)


def test_episode_in_any_order(source, first):
    assert_equal(source.episode(70), first[70])
    assert_equal(source.episode(3), first[3])
    x, other = first[70][0], first[3][0]
    assert not np.array_equal(x["support_y"], other["support_y"])


def test_resuming_equals_never_having_stopped(source, first):
    resumed = list(episodes(source.batch(6, start=5 * 6).take(7)))
    assert_all_equal(first[5 * 6 : 12 * 6], resumed)


def test_a_second_pass_equals_the_first(stream, first):
    assert_all_equal(episodes(stream), first)


def test_seeds_and_numbers_give_different_episodes(make, first):
    count = len(first)
    seen = [
        x["support_x"].tobytes() + x["support_y"].tobytes()
        for stream in (
            first,
            episodes(make(1).batch(count, count=count)),
            episodes(make(2**32 - 1).batch(count, count=count)),
        )
        for x, _ in stream
    ]
    assert len(set(seen)) == len(seen) == 3 * count


@pytest.mark.parametrize(
    ("size", "count", "sizes"),
    [
        (4, 12, [4, 4, 4]),
        (5, 12, [5, 5, 2]),
        (20, 12, [12]),
        (1, 2, [1, 1]),
        (BLOCK, 2 * BLOCK + 1, [BLOCK, BLOCK, 1]),
    ],
)
def test_count(size, count, sizes):
    stream = tasks.Sinusoid().batch(size, count=count, start=BLOCK - 3)
    assert stream.cardinality() == len(sizes)
    assert [len(y) for _, y in stream] == sizes


def test_endless_stream():
    stream = tasks.Sinusoid().batch(25)
    assert stream.cardinality() == tf.data.INFINITE_CARDINALITY
    assert sum(1 for _ in stream.take(20)) == 20
    # An autotuned stream takes as long to close as it was open.
    assert not stream.options().autotune.enabled


def test_shapes_are_known_before_the_first_meta_batch(source, first):
    x, y = first[0]
    assert set(x) == {"support_x", "support_y", "query_x"}
    for stream, size in (
        (source.batch(4), 4),
        (source.batch(4, count=8, start=1), 4),
        (source.batch(4, count=9), None),
    ):
        x_spec, y_spec = stream.element_spec
        assert set(x_spec) == set(x)
        for value, spec in [(x[name], x_spec[name]) for name in x] + [
            (y, y_spec)
        ]:
            assert spec.shape.as_list() == [size, *value.shape]
            assert spec.dtype == value.dtype


def test_two_replicas_share_the_meta_batch(source, first):
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    stream = source.batch(4, count=8, start=BLOCK - 2)
    distributed = strategy.experimental_distribute_dataset(stream)
    got = []
    for x, y in distributed:
        for part in range(2):
            local = [
                {
                    k: strategy.experimental_local_results(v)[part].numpy()
                    for k, v in x.items()
                },
                strategy.experimental_local_results(y)[part].numpy(),
            ]
            assert len(local[1]) == 2
            got += [
                ({k: v[task] for k, v in local[0].items()}, local[1][task])
                for task in range(2)
            ]
    assert_all_equal(got, first[BLOCK - 2 : BLOCK + 6])


def test_keras_takes_the_stream(source):
    stream = source.batch(2, count=6)
    seen = []

    class Model(keras.Model):
        def test_step(self, data):
            seen.append(data)
            return {"tasks": tf.shape(data[1])[0]}

    model = Model()
    model.compile(run_eagerly=True)
    model.evaluate(stream, verbose=0)
    assert [len(y) for _, y in seen] == [2, 2, 2]


def test_base_class_leaves_drawing_to_subclasses():
    with pytest.raises(NotImplementedError):
        tasks.TaskDistribution().batch(1)


def test_a_seed_means_the_same_for_ever():
    # A change here changes every published result: it needs a word in the
    # CHANGELOG, not new numbers.
    parameters = tasks.Sinusoid(seed=7).parameters(100)
    expected = {"amplitude": 1.8341116, "phase": 1.6083238}
    assert parameters == pytest.approx(expected, rel=1e-5)
    x, _ = tasks.Glyphs(seed=7).episode(100)
    assert x["support_x"].mean() == pytest.approx(0.1001492, rel=1e-4)
    names = _pool().episodes(5, 1, 1, seed=7).classes(100)
    assert names == ["0", "12", "9", "14", "2"]
