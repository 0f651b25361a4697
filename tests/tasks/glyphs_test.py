import itertools

import numpy as np
import pytest
import tensorflow as tf

from keras_maml import tasks
from keras_maml.tasks import glyphs


def draw(source, count):
    x, y = next(source.batch(count, count=count).as_numpy_iterator())
    return x["support_x"], x["support_y"], x["query_x"], y


# To start a stream of glyphs takes a second, so tests share what is drawn.


@pytest.fixture(scope="module")
def drawn():
    return draw(tasks.Glyphs(5, 2, 3), 200)


@pytest.fixture(scope="module")
def without_variation():
    return draw(tasks.Glyphs(5, 2, 3, variation=0), 20)


@pytest.fixture(scope="module")
def one_shot():
    """Episodes of one support and one query example of each class."""
    return draw(tasks.Glyphs(5), 500)


def nearest_neighbour_accuracy(episodes):
    x, labels, query_x, query_y = episodes
    x, query_x = (v.reshape(*v.shape[:2], -1) for v in (x, query_x))
    # |q - x|² without the |q|², which is the same for all x.
    distance = (x**2).sum(axis=-1)[:, None] - 2 * query_x @ x.swapaxes(1, 2)
    nearest = np.take_along_axis(labels, distance.argmin(axis=-1), axis=1)
    return (nearest == query_y).mean()


def all_images(episodes):
    x, _, query_x, _ = episodes
    return np.concatenate([x, query_x], axis=1).reshape(-1, 28 * 28)


def number_of_different(images):
    return len({image.tobytes() for image in images})


def test_images_are_ink_on_paper(drawn):
    x, _, query_x, _ = drawn
    assert x.shape == (200, 10, 28, 28, 1)
    assert query_x.shape == (200, 15, 28, 28, 1)
    images = all_images(drawn)
    assert images.dtype == np.float32
    assert images.min() == 0
    assert images.max() == 1
    ink = images.mean(axis=1)
    # Something is drawn on each, and most of each is paper.
    assert ink.min() > 0.005
    assert ink.max() < 0.5
    assert 0.07 < ink.mean() < 0.14
    assert np.median(images) == 0


def test_labels_are_balanced_and_shuffled(drawn):
    _, labels, _, query_y = drawn
    assert (np.sort(labels) == np.repeat(np.arange(5), 2)).all()
    assert (np.sort(query_y) == np.repeat(np.arange(5), 3)).all()
    for part in (labels, query_y):
        frequency = np.mean(part[..., None] == np.arange(5), axis=0)
        assert abs(frequency - 0.2).max() < 4 * np.sqrt(0.2 * 0.8 / 200)


def test_the_order_of_the_support_does_not_tell_that_of_the_query(one_shot):
    _, labels, _, query_y = one_shot
    equal = np.mean(labels == query_y)
    assert abs(equal - 0.2) < 4 * np.sqrt(0.2 * 0.8 / labels.size)


def test_without_variation_a_class_is_one_image(without_variation):
    x, labels, query_x, query_y = without_variation
    for episode in range(20):
        for label in range(5):
            of_class = np.concatenate(
                [
                    x[episode][labels[episode] == label],
                    query_x[episode][query_y[episode] == label],
                ]
            )
            assert (of_class == of_class[0]).all()


def test_every_example_is_drawn_anew(drawn):
    assert number_of_different(all_images(drawn)) == 200 * 25


def test_as_hard_as_omniglot_for_a_nearest_neighbour(one_shot):
    # Omniglot's: 44 % 5-way, 25 % 20-way.
    five = nearest_neighbour_accuracy(one_shot)
    twenty = nearest_neighbour_accuracy(draw(tasks.Glyphs(20), 60))
    assert 0.40 < five < 0.50
    assert 0.20 < twenty < 0.29


def test_more_variation_is_harder(without_variation, one_shot):
    assert nearest_neighbour_accuracy(without_variation) == 1.0
    half, one_and_a_half = (
        nearest_neighbour_accuracy(draw(tasks.Glyphs(variation=value), 300))
        for value in (0.5, 1.5)
    )
    accuracies = [1.0, half, nearest_neighbour_accuracy(one_shot)]
    assert (np.diff([*accuracies, one_and_a_half]) < -0.05).all()


@pytest.mark.slow
def test_no_class_occurs_twice_in_any_split_or_under_another_seed():
    streams = [
        draw(tasks.Glyphs(20, split=split, variation=0, seed=seed), 30)[0]
        for split, seed in (
            ("train", 0),
            ("validation", 0),
            ("test", 0),
            ("train", 1),
        )
    ]
    images = np.concatenate(streams).reshape(-1, 28 * 28)
    assert number_of_different(images) == len(images) == 2400
    for a, b in itertools.combinations(streams, 2):
        assert abs(a - b).mean() > 0.02


def test_number_of_strokes():
    strokes, ink = glyphs._draw_characters(tf.constant([0, 1]), [300])
    assert strokes.shape == (300, 4, 4, 2)
    number, count = np.unique(ink.numpy().sum(axis=-1), return_counts=True)
    assert number.tolist() == [2, 3, 4]
    assert abs(count - 100).max() < 4 * np.sqrt(300 * 2 / 9)


def test_image_size_changes_only_the_sharpness(one_shot):
    small = one_shot[0][0]
    large = tasks.Glyphs(image_size=56).episode(0)[0]["support_x"]
    assert large.shape == (5, 56, 56, 1)
    halved = large.reshape(5, 28, 2, 28, 2, 1).mean(axis=(2, 4))
    assert abs(halved - small).mean() < 0.02


def test_render_against_a_sum_over_dots():
    rng = np.random.default_rng(0)
    strokes = rng.uniform(0.2, 0.8, (1, 2, 4, 2)).astype("float32")
    ink = np.array([[1.0, 0.0]], "float32")
    thickness = np.array([0.8], "float32")
    image = glyphs._render(strokes, ink, thickness, 28).numpy()[0, ..., 0]

    t = np.linspace(0, 1, glyphs._DOTS + 1)[:, None]
    p = strokes[0, 0]
    curve = 28 * (
        (1 - t) ** 3 * p[0]
        + 3 * (1 - t) ** 2 * t * p[1]
        + 3 * (1 - t) * t**2 * p[2]
        + t**3 * p[3]
    )
    expected = np.zeros((28, 28))
    for a, b in zip(curve[:-1], curve[1:], strict=True):
        x, y = (a + b) / 2
        for row in range(28):
            for column in range(28):
                square = (column + 0.5 - x) ** 2 + (row + 0.5 - y) ** 2
                expected[row, column] += (
                    np.linalg.norm(b - a)
                    * np.exp(-square / (2 * 0.8**2))
                    / (0.8 * np.sqrt(2 * np.pi))
                )
    expected = np.clip(1.7 * expected - 0.25, 0, 1)
    np.testing.assert_allclose(image, expected, atol=1e-5)
    assert 0.02 < expected.mean() < 0.5


def test_a_strategy_of_one_device_gets_whole_meta_batches():
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    batches = tasks.Glyphs().batch(3, count=4)
    distributed = strategy.experimental_distribute_dataset(batches)
    assert [len(y) for _, y in distributed] == [3, 1]
