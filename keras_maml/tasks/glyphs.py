"""Endless classes of generated characters."""

import itertools
import math

import numpy as np
import tensorflow as tf

from keras_maml.tasks.task_distribution import BLOCK
from keras_maml.tasks.task_distribution import EpisodeTensors
from keras_maml.tasks.task_distribution import TaskDistribution
from keras_maml.tasks.task_distribution import normal
from keras_maml.tasks.task_distribution import permutations
from keras_maml.tasks.task_distribution import split_seed
from keras_maml.tasks.task_distribution import uniform
from keras_maml.validation import check_integer
from keras_maml.validation import check_number

_SPLITS = ("train", "validation", "test")
_MIN_STROKES = 2
_MAX_STROKES = 4
# Dots of ink along a stroke: enough that they join up.
_DOTS = 32


class Glyphs(TaskDistribution):
    """n-way, k-shot classification of generated characters; no data needed.

    A class is a character of two to four strokes. A stroke is a cubic Bézier
    curve, straight or bent, and often begins on the stroke before. Classes
    never run out: every episode draws new ones from a continuous distribution.
    Each split has its own stream of random numbers, so no class of one split
    occurs in another. Each example draws its character anew and varies the
    strokes, slant, rotation, proportions, place and thickness.

    Args:
        n_way: int. The number of classes of an episode. Defaults to `5`.
        k_shot: int. The number of support examples of a class. Defaults to `1`.
        q_query: int. The number of query examples of a class. Defaults to `1`.
        split: `"train"`, `"validation"` or `"test"`. Defaults to `"train"`.
        image_size: int. Height and width in pixels, at least 8. Defaults to
            `28`.
        variation: float. How much the examples of a class differ. With `0`
            they are equal. With the default, `1.0`, classification by the
            nearest neighbour in pixels is about as hard as on Omniglot.
        seed: int. See `TaskDistribution`. Defaults to `0`.

    Raises:
        ValueError: If `n_way`, `k_shot` or `q_query` is not a positive integer,
            `split` is unknown, `image_size` is not an integer of at least 8,
            `variation` is negative or `seed` is not an integer between 0 and
            2**32 - 1.

    Example:

    >>> from keras_maml import tasks
    >>> glyphs = tasks.Glyphs(n_way=5, k_shot=1, q_query=3, split="test")
    >>> x, y = glyphs.episode(0)
    >>> x["support_x"].shape, x["support_y"].shape, y.shape
    ((5, 28, 28, 1), (5,), (15,))
    """

    # The last bit of a matrix product may depend on the number of matrices.
    _episodes_per_call = 1

    def __init__(
        self,
        n_way: int = 5,
        k_shot: int = 1,
        q_query: int = 1,
        *,
        split: str = "train",
        image_size: int = 28,
        variation: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        self.n_way = check_integer("n_way", n_way)
        self.k_shot = check_integer("k_shot", k_shot)
        self.q_query = check_integer("q_query", q_query)
        self.image_size = check_integer("image_size", image_size, minimum=8)
        self.variation = check_number("variation", variation, minimum=0)
        if split not in _SPLITS:
            raise ValueError(
                f"`split` must be one of {_SPLITS}. Received: split={split!r}"
            )
        self.split = split

    def _draw(self, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        seed = split_seed(seed, len(_SPLITS))[_SPLITS.index(self.split)]
        seeds = split_seed(seed, 4)
        strokes, drawn_strokes = _draw_characters(seeds[0], [BLOCK, self.n_way])
        support = permutations(seeds[1], BLOCK, self.n_way * self.k_shot)
        query = permutations(seeds[2], BLOCK, self.n_way * self.q_query)
        labels = tf.concat(
            [support // self.k_shot, query // self.q_query], axis=1
        )
        strokes = tf.gather(strokes, labels, batch_dims=1)
        strokes, thickness = _draw_by_hand(seeds[3], strokes, self.variation)
        ink = tf.gather(drawn_strokes, labels, batch_dims=1)
        return {
            "labels": labels,
            "strokes": strokes,
            "thickness": thickness,
            "ink": ink,
        }

    def _realize(self, drawn: dict[str, tf.Tensor]) -> EpisodeTensors:
        images = _render(
            drawn["strokes"][0],
            drawn["ink"][0],
            drawn["thickness"][0],
            self.image_size,
        )
        images, labels = images[None], drawn["labels"]
        support = self.n_way * self.k_shot
        x = {
            "support_x": images[:, :support],
            "support_y": labels[:, :support],
            "query_x": images[:, support:],
        }
        return x, labels[:, support:]


def _draw_characters(seed, shape):
    """Draws characters.

    Returns:
        `strokes`: the control points of their strokes as (x, y) about the
        origin, `(*shape, strokes, 4, 2)`; a character is about 1 wide or high.
        `ink`: 1 for a stroke that is there and 0 for one that is not,
        `(*shape, strokes)`.
    """
    seeds = split_seed(seed, 7)
    each_stroke = [*shape, _MAX_STROKES]
    starts = tf.unstack(uniform(seeds[0], [*each_stroke, 2]), axis=-2)
    ends = tf.unstack(uniform(seeds[1], [*each_stroke, 2, 2]), axis=-3)
    # Where a stroke begins on the stroke before: 1 and above is at its end, and
    # below 0 is off it.
    places = uniform(seeds[2], each_stroke, -0.55, 1.6)
    places = tf.unstack(places[..., None], axis=-2)
    bends = tf.maximum(uniform(seeds[3], [*each_stroke, 1, 1], -0.3, 0.6), 0.0)
    bends = bends * normal(seeds[4], [*each_stroke, 2, 2])
    # Only the inner two of a stroke's four points are off the straight line.
    bends = tf.pad(bends, [[0, 0]] * (len(shape) + 1) + [[1, 1], [0, 0]])
    bends = tf.unstack(bends, axis=-3)
    line = np.linspace(0.0, 1.0, 4, dtype="float32")[:, None]
    strokes = []
    for start, end, place, bend in zip(
        starts, ends, places, bends, strict=True
    ):
        if strokes:
            touched = _on_curve(strokes[-1], tf.clip_by_value(place, 0.2, 1.0))
            start = tf.where(place > 0, tf.squeeze(touched, -2), start)
        # The farther of two ends, so that few strokes are mere dots.
        square = tf.square(end - tf.expand_dims(start, -2))
        farther = tf.argmax(tf.reduce_sum(square, axis=-1), axis=-1)
        end = tf.gather(end, farther, batch_dims=len(shape))
        start, end = tf.expand_dims(start, -2), tf.expand_dims(end, -2)
        strokes.append(start + line * (end - start) + bend)
    strokes = tf.stack(strokes, axis=-3)

    number = uniform(seeds[5], [*shape, 1], _MIN_STROKES, _MAX_STROKES + 1)
    ink = tf.cast(np.arange(_MAX_STROKES) < tf.floor(number), tf.float32)

    # Centre the strokes that are there and scale them to a common size.
    curves = _on_curve(strokes, np.linspace(0.0, 1.0, 7, dtype="float32"))
    there = ink[..., None, None] > 0
    low = tf.reduce_min(tf.where(there, curves, math.inf), axis=[-3, -2])
    high = tf.reduce_max(tf.where(there, curves, -math.inf), axis=[-3, -2])
    extent = tf.reduce_max(high - low, axis=-1)[..., None]
    size = uniform(seeds[6], [*shape, 1], 0.8, 1.1)
    centre, scale = (low + high) / 2, size / extent
    strokes = (strokes - centre[..., None, None, :]) * scale[..., None, None, :]
    return strokes, ink


def _draw_by_hand(seed, strokes, variation):
    """Draws each character once, as a hand would: never twice the same.

    Returns:
        The strokes, in units of the image's size, and the thickness of the
        line. The thickness is the standard deviation of the line's profile, in
        pixels of an image of 28 by 28.
    """
    seeds = split_seed(seed, 6)
    shape = strokes.shape[:-3]
    strokes += normal(seeds[0], strokes.shape, 0.065 * variation)
    angle = normal(seeds[1], shape, 0.15 * variation)
    slant = normal(seeds[2], shape, 0.25 * variation)
    stretch = normal(seeds[3], [2, *shape], 0.15 * variation)
    width, height = tf.exp(stretch[0]), tf.exp(stretch[1])
    cos, sin = tf.cos(angle), tf.sin(angle)
    # (x, y) is stretched, slanted, then turned. Written out: a matrix product
    # this small is slower.
    x = strokes[..., 0] * width[..., None, None]
    y = strokes[..., 1] * height[..., None, None]
    x += slant[..., None, None] * y
    cos, sin = cos[..., None, None], sin[..., None, None]
    strokes = tf.stack([cos * x - sin * y, sin * x + cos * y], axis=-1)
    shift = normal(seeds[4], [*shape, 1, 1, 2], 0.06 * variation)
    strokes = 0.5 + 0.66 * strokes + shift
    thickness = 0.7 + variation * uniform(seeds[5], shape, -0.15, 0.15)
    return strokes, tf.maximum(thickness, 0.5)


def _render(strokes, ink, thickness, size):
    """Draws each stroke in ink, as a sum of soft dots along it.

    A dot is the product of a function of the row and a function of the column.
    So one product of two small matrices draws all dots of an image.

    Args:
        strokes: control points, `(images, strokes, 4, 2)`.
        ink: `(images, strokes)`.
        thickness: `(images,)`.
        size: int, of the image in pixels.

    Returns:
        Images of shape `(images, size, size, 1)`: 1 is ink, 0 is paper.
    """
    places = np.linspace(0.0, 1.0, _DOTS + 1, dtype="float32")
    curve = _on_curve(strokes, places) * size
    dots = (curve[..., 1:, :] + curve[..., :-1, :]) / 2
    lengths = tf.norm(curve[..., 1:, :] - curve[..., :-1, :], axis=-1)
    spread = thickness * (size / 28)
    # So the ink on a long straight line sums to 1.
    weights = lengths * ink[..., None]
    weights /= spread[:, None, None] * math.sqrt(2 * math.pi)
    dots = tf.reshape(dots, [dots.shape[0], -1, 2])
    weights = tf.reshape(weights, [dots.shape[0], 1, -1])
    pixels = np.arange(size, dtype="float32")[:, None] + 0.5
    falloff = -0.5 / tf.square(spread)[:, None, None]
    columns = tf.exp(tf.square(pixels - dots[:, None, :, 0]) * falloff)
    rows = tf.exp(tf.square(pixels - dots[:, None, :, 1]) * falloff)
    images = tf.matmul(rows * weights, columns, transpose_b=True)
    return tf.clip_by_value(1.7 * images - 0.25, 0.0, 1.0)[..., None]


def _on_curve(points, place):
    """Evaluates cubic Bézier curves.

    Args:
        points: control points, `(..., 4, 2)`.
        place: where on the curve, 0 to 1, `(..., places)` or `(places,)`.

    Returns:
        `(..., places, 2)`.
    """
    place = tf.expand_dims(place, -1)
    # De Casteljau's construction: a point between each two, until one is left.
    points = tf.unstack(tf.expand_dims(points, -3), axis=-2)
    while len(points) > 1:
        points = [a + place * (b - a) for a, b in itertools.pairwise(points)]
    return points[0]
