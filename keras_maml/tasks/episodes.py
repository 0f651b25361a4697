"""Classification tasks over a pool of classes."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from keras_maml.tasks.labelled_examples import LabelledExamples
from keras_maml.tasks.labelled_examples import as_inputs
from keras_maml.tasks.task_distribution import BLOCK
from keras_maml.tasks.task_distribution import EpisodeTensors
from keras_maml.tasks.task_distribution import TaskDistribution
from keras_maml.tasks.task_distribution import permutations
from keras_maml.tasks.task_distribution import split_seed
from keras_maml.tasks.task_distribution import uniform
from keras_maml.validation import check_bool
from keras_maml.validation import check_integer


class Episodes(TaskDistribution):
    """n-way, k-shot classification tasks over the classes of a pool.

    An episode draws `n_way` different classes. Of each class it draws `k_shot`
    support examples and `q_query` query examples, all different. The label of a
    class is its place in the draw, so a label means another class in every
    episode. The rows of the support set and of the query set are shuffled.

    To make episodes, call `ClassPool.episodes`.

    Args:
        examples: `LabelledExamples`. The examples of a pool.
        n_way: int. The number of classes of an episode.
        k_shot: int. The number of support examples of a class.
        q_query: int. The number of query examples of a class.
        rotations: bool. Whether to turn each class of an episode by 0, 90, 180
            or 270 degrees at random. Support and query examples of a class
            turn alike. Defaults to `False`.
        seed: int. See `TaskDistribution`. Defaults to `0`.

    Raises:
        ValueError: If `n_way`, `k_shot` or `q_query` is not a positive integer,
            the pool has fewer than `n_way` classes, one of its classes has
            fewer than `k_shot + q_query` examples, `rotations` is not a bool,
            the images to rotate are not square or already have rotations as
            classes, or `seed` is not an integer between 0 and 2**32 - 1.

    Example:

    >>> import numpy as np
    >>> from keras_maml import tasks
    >>> images = np.zeros((60, 8, 8, 1), "uint8")
    >>> pool = tasks.from_arrays(images, labels=np.repeat(np.arange(20), 3))
    >>> episodes = pool.episodes(n_way=5, k_shot=1, q_query=2, rotations=True)
    >>> x, y = episodes.episode(0)
    >>> sorted(x["support_y"].tolist()), sorted(y.tolist())[:4]
    ([0, 1, 2, 3, 4], [0, 0, 1, 1])

    Reference:

    - [Vinyals et al., 2016](https://arxiv.org/abs/1606.04080), section 4.1.
    """

    def __init__(
        self,
        examples: LabelledExamples,
        n_way: int,
        k_shot: int,
        q_query: int,
        *,
        rotations: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        self.examples = examples
        self.n_way = check_integer("n_way", n_way)
        self.k_shot = check_integer("k_shot", k_shot)
        self.q_query = check_integer("q_query", q_query)
        self.rotations = rotations
        self._check_examples()

    def classes(self, index: int) -> list[str]:
        """Returns the names of an episode's classes, by label.

        Args:
            index: int. The episode's number, at least 0.

        Returns:
            A list of `n_way` strings.

        Raises:
            ValueError: If `index` is negative or not an integer.
        """
        classes = self._drawn(index)["classes"]
        return [self.examples.class_names[number] for number in classes]

    def task_names(self, episodes: Sequence[int]) -> list[tuple[str, ...]]:
        """Returns the names of the classes of episodes, by label.

        Args:
            episodes: list of ints, increasing numbers of episodes.

        Returns:
            A list of tuples of `n_way` strings.
        """
        first, last = int(episodes[0]), int(episodes[-1])
        drawn = self._draw_episodes(first, last - first + 1).rebatch(BLOCK)
        classes = np.concatenate([d["classes"].numpy() for d in drawn])
        class_names = self.examples.class_names
        return [
            tuple(class_names[c] for c in classes[number - first])
            for number in episodes
        ]

    def _draw(self, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        examples = self.examples
        seeds = split_seed(seed, 5)
        # A random number for each class; the `n_way` largest are a draw without
        # replacement, in random order.
        scores = uniform(seeds[0], [BLOCK, examples.num_classes])
        classes = tf.math.top_k(scores, self.n_way).indices
        largest = int(examples.counts.max())
        scores = uniform(seeds[1], [BLOCK, self.n_way, largest])
        counts = examples.counts_of(classes)
        exists = tf.range(largest) < counts[..., None]
        scores = tf.where(exists, scores, -1.0)
        picked = tf.math.top_k(scores, self.k_shot + self.q_query).indices
        rows = examples.rows_of(classes, picked)

        if self.rotations:
            turns = tf.random.stateless_uniform(
                [BLOCK, self.n_way],
                seeds[2],
                maxval=4,
                dtype=tf.int32,
                alg="philox",
            )
        else:
            turns = examples.turns_of(classes)

        drawn = {"classes": classes}
        for part, size, chosen, order_seed in (
            ("support", self.k_shot, rows[..., : self.k_shot], seeds[3]),
            ("query", self.q_query, rows[..., self.k_shot :], seeds[4]),
        ):
            length = self.n_way * size
            order = permutations(order_seed, BLOCK, length)
            labels = order // size
            chosen = tf.reshape(chosen, [BLOCK, length])
            drawn[f"{part}_rows"] = tf.gather(chosen, order, batch_dims=1)
            drawn[f"{part}_y"] = labels
            if turns is not None:
                drawn[f"{part}_turns"] = tf.gather(turns, labels, batch_dims=1)
        return drawn

    def _realize(self, drawn: dict[str, tf.Tensor]) -> EpisodeTensors:
        x = {
            "support_x": self._gather(drawn, "support"),
            "support_y": drawn["support_y"],
            "query_x": self._gather(drawn, "query"),
        }
        return x, drawn["query_y"]

    def _gather(self, drawn, part):
        x = tf.gather(self.examples.x, drawn[f"{part}_rows"])
        turns = drawn.get(f"{part}_turns")
        if turns is not None:
            x = _rotate(x, turns[..., None, None, None])
        return as_inputs(x)

    def _check_examples(self):
        examples = self.examples
        if examples.num_classes < self.n_way:
            raise ValueError(
                f"`n_way` must not exceed the {examples.num_classes} classes "
                f"of the pool. Received: n_way={self.n_way}"
            )
        needed = self.k_shot + self.q_query
        smallest = int(np.argmin(examples.counts))
        if examples.counts[smallest] < needed:
            raise ValueError(
                f"Every class needs `k_shot + q_query` = {needed} examples; "
                f"class {examples.class_names[smallest]!r} has "
                f"{examples.counts[smallest]}. Lower `k_shot` or `q_query`, or "
                f"call `pool.with_at_least({needed})`. Received: "
                f"k_shot={self.k_shot}, q_query={self.q_query}"
            )
        if check_bool("rotations", self.rotations):
            # Turned at random, a class and its rotation would be one class with
            # two labels.
            examples.check_unrotated("Either add them or draw them")
            examples.check_square()


def _rotate(x, turns):
    """Turns images counter-clockwise by `turns` quarters, as `np.rot90`."""
    x = tf.where(turns >= 2, tf.reverse(x, [2, 3]), x)
    quarter = tf.reverse(tf.transpose(x, [0, 1, 3, 2, 4]), [2])
    return tf.where(turns % 2 == 1, quarter, x)
