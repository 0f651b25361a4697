"""What every source of tasks has in common."""

from collections.abc import Iterator
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from keras_maml.streams import EpisodeStream
from keras_maml.streams import counter
from keras_maml.tasks.parallel_map import parallel_map
from keras_maml.validation import check_integer
from keras_maml.validation import check_seed

# How many consecutive episodes draw their random numbers at once: one call of a
# random op costs as much as the numbers of many episodes. To change the value
# is to change every episode.
BLOCK = 64

# One generator on every machine: by default, TensorFlow may choose another one
# on an accelerator.
_ALGORITHM = "philox"

# The key of an episode's number among its drawn numbers.
_NUMBER = "episode number"

# `(x, y)`, where `x` has "support_x", "support_y" and "query_x". `Episode` is
# one episode; `EpisodeTensors` has a leading axis of episodes.
Episode = tuple[dict[str, np.ndarray], np.ndarray]
EpisodeTensors = tuple[dict[str, tf.Tensor], tf.Tensor]


class TaskDistribution:
    """A distribution over tasks, from which episodes are drawn by number.

    An episode is one sampled task with its data: a support set to adapt on and
    a query set to judge the adapted learner by. `(seed, index)` alone
    determines episode `index` of a distribution. So you can draw any episode
    again, and training can resume in the middle of a stream of tasks.

    Subclasses implement two hooks, both in TensorFlow operations only:

    - `_draw(seed)` draws the random numbers of `BLOCK` episodes: a dictionary
      of tensors whose first axis is the episode.
    - `_realize(drawn)` turns the drawn numbers of any number of episodes into
      their data, `(x, y)`. The bits of an episode must not depend on the
      episodes beside it. If they depend on how many there are, set
      `_episodes_per_call`.

    Args:
        seed: int. Two distributions with the same arguments and seed hold the
            same episodes. Defaults to `0`.

    Raises:
        ValueError: If `seed` is not an integer between 0 and 2**32 - 1.

    Example:

    >>> from keras_maml import tasks
    >>> sinusoid = tasks.Sinusoid(k_shot=10, q_query=10, seed=0)
    >>> train_tasks = sinusoid.batch(25)
    >>> x, y = next(iter(train_tasks))
    >>> x["support_x"].shape
    TensorShape([25, 10, 1])
    >>> sinusoid.episode(7)[0]["support_x"].shape
    (10, 1)
    """

    _episodes_per_call: int | None = None

    def __init__(self, seed: int = 0) -> None:
        self.seed = check_seed(seed)
        # The next episode's number and an iterator that is about to give it.
        self._stream: tuple[int, Iterator[EpisodeTensors]] | None = None
        # Traced once for all calls of `batch` and `episode`.
        self._draw_function = tf.function(
            lambda block: self._draw(
                tf.stack([tf.constant(self.seed, tf.int64), block])
            ),
            input_signature=[tf.TensorSpec([], tf.int64)],
            autograph=False,
        )
        self._realize_function = tf.function(
            self._realize_numbered, autograph=False
        )

    def episode(self, index: int) -> Episode:
        """Draws one episode.

        Args:
            index: int. The episode's number, at least 0.

        Returns:
            `(x, y)` of numpy arrays. `x` is a dictionary of `"support_x"`
            `(support, *input_shape)`, `"support_y"`
            `(support, *target_shape)` and `"query_x"`
            `(query, *input_shape)`. `y` holds the targets of the query set,
            `(query, *target_shape)`.

        Raises:
            ValueError: If `index` is negative or not an integer.
        """
        index = check_integer("index", index, minimum=0)
        # `batch`, since a plain function may differ in the last bit. A stream
        # starts slowly, so the next episode comes from the same one.
        if self._stream is None or self._stream[0] != index:
            self._stream = index, iter(self.batch(1, start=index))
        _, iterator = self._stream
        episode = _without_first_axis(next(iterator))
        self._stream = index + 1, iterator
        return episode

    def batch(
        self, tasks: int, count: int | None = None, start: int = 0
    ) -> tf.data.Dataset:
        """Streams meta-batches of consecutive episodes.

        Meta-batch `i` holds the episodes `start + i * tasks` to
        `start + (i + 1) * tasks - 1`, each equal to `episode(index)` bit for
        bit. To resume after `n` meta-batches, pass `start=n * tasks`.

        Args:
            tasks: int. The number of episodes in a meta-batch.
            count: int. The number of episodes in all. If `tasks` does not
                divide `count`, the last meta-batch is smaller. Defaults to
                `None`, an endless stream, with which `fit` needs
                `steps_per_epoch`.
            start: int. The number of the first episode. Defaults to `0`.

        Returns:
            A `tf.data.Dataset` of `(x, y)`, with `x["support_x"]`
            `(tasks, support, *input_shape)`, `x["support_y"]`
            `(tasks, support, *target_shape)`, `x["query_x"]`
            `(tasks, query, *input_shape)` and `y`
            `(tasks, query, *target_shape)`.

        Raises:
            ValueError: If `tasks` or `count` is not a positive integer, or
                `start` is negative or not an integer.
        """
        tasks = check_integer("tasks", tasks)
        start = check_integer("start", start, minimum=0)
        if count is not None:
            count = check_integer("count", count)
        return EpisodeStream(
            self._slices,
            tasks,
            count,
            start,
            task_names=self.task_names,
            group_names=self.group_names,
        ).dataset()

    def task_names(self, episodes: Sequence[int]) -> list | None:
        """Returns the names of what episodes share with others.

        `evaluate_episodes` asks for them. Scores of episodes that share a task
        or a class are not independent.

        Args:
            episodes: list of ints, increasing numbers of episodes.

        Returns:
            For each episode the name of its task, or a tuple of the names of
            its classes. `None` if no two episodes share anything.
        """
        return None

    def group_names(self, episodes: Sequence[int]) -> list[str] | None:
        """Returns the names of the groups that tasks of episodes share.

        Scores of two tasks of a group, such as a person's two arms, are not
        independent either.

        Args:
            episodes: list of ints, increasing numbers of episodes.

        Returns:
            For each episode the name of its task's group. `None` if no two
            tasks have a group in common.
        """
        return None

    def _slices(self, tasks, count, start, low, high, numbered):
        """Returns a dataset. See `EpisodeStream`."""
        size = high - low
        dataset = self._draw_episodes(start, count, numbered)
        if size < tasks:
            # Before the data of the episodes is made.
            dataset = dataset.rebatch(tasks).map(
                lambda drawn: {k: v[low:high] for k, v in drawn.items()}
            )
        # `drop_remainder` drops nothing here; it makes the task axis static.
        static = count is None or count % tasks == 0
        if self._episodes_per_call is None:
            dataset = dataset.rebatch(size, drop_remainder=static)
            dataset = parallel_map(dataset, self._realize_function)
        else:
            dataset = dataset.rebatch(
                self._episodes_per_call,
                drop_remainder=self._episodes_per_call == 1,
            )
            dataset = parallel_map(dataset, self._realize_function)
            dataset = dataset.rebatch(size, drop_remainder=static)
            # A strategy of one device takes a `rebatch` at the end for its own
            # and replaces it: it would hand over single episodes.
            dataset = dataset.map(lambda *batch: batch)
        if count is None:
            cardinality = tf.data.INFINITE_CARDINALITY
        else:
            cardinality = -(-count // tasks)
            if 0 < count % tasks <= low:
                # The last meta-batch has no episode for this part.
                empty = tf.nest.map_structure(
                    _no_episodes, dataset.element_spec
                )
                dataset = dataset.concatenate(
                    tf.data.Dataset.from_tensors(empty)
                )
        dataset = dataset.apply(
            tf.data.experimental.assert_cardinality(cardinality)
        )
        return dataset.prefetch(tf.data.AUTOTUNE)

    def _draw(self, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        """Draws the random numbers of `BLOCK` episodes."""
        raise NotImplementedError

    def _realize(self, drawn: dict[str, tf.Tensor]) -> EpisodeTensors:
        """Turns drawn numbers into the data of their episodes."""
        raise NotImplementedError

    def _realize_numbered(self, drawn):
        drawn = dict(drawn)
        number = drawn.pop(_NUMBER, None)
        x, *rest = self._realize(drawn)
        return (x if number is None else {**x, "episode": number}), *rest

    def _drawn(self, index: int) -> dict[str, np.ndarray]:
        """Returns the random numbers of one episode."""
        index = check_integer("index", index, minimum=0)
        drawn = next(iter(self._draw_episodes(index, 1)))
        return _without_first_axis(drawn)

    def _draw_episodes(self, start, count, numbered=False):
        """Streams the drawn numbers of episodes, any number at a time."""
        first = start // BLOCK
        if count is None:
            end = tf.int64.max
            blocks = counter(first)
        else:
            end = start + count
            blocks = tf.data.Dataset.range(first, -(-end // BLOCK))

        def draw(block):
            drawn = self._draw_function(block)
            low = tf.maximum(start - block * BLOCK, 0)
            high = tf.minimum(end - block * BLOCK, BLOCK)
            drawn = {name: value[low:high] for name, value in drawn.items()}
            if numbered:
                drawn[_NUMBER] = block * BLOCK + tf.range(low, high)
            return drawn

        return parallel_map(blocks, draw)


def split_seed(seed: tf.Tensor, number: int) -> list[tf.Tensor]:
    """Makes independent seeds, one for each quantity to draw."""
    return tf.unstack(tf.random.split(seed, number, alg=_ALGORITHM))


def uniform(
    seed: tf.Tensor, shape: Sequence[int], low: float = 0.0, high: float = 1.0
) -> tf.Tensor:
    """Draws float32 numbers, uniform in [low, high)."""
    return tf.random.stateless_uniform(
        shape, seed, minval=low, maxval=high, alg=_ALGORITHM
    )


def normal(
    seed: tf.Tensor, shape: Sequence[int], stddev: float = 1.0
) -> tf.Tensor:
    """Draws float32 numbers, normal with mean 0."""
    return tf.random.stateless_normal(
        shape, seed, stddev=stddev, alg=_ALGORITHM
    )


def permutations(seed: tf.Tensor, rows: int, size: int) -> tf.Tensor:
    """Draws `rows` permutations of `range(size)`, int32."""
    return tf.math.top_k(uniform(seed, [rows, size]), size).indices


def _without_first_axis(element):
    return tf.nest.map_structure(lambda value: value[0].numpy(), element)


def split_points(x: tf.Tensor, y: tf.Tensor, support: int) -> EpisodeTensors:
    """Makes episodes `(x, y)` of points: support points first, then query.

    Args:
        x: tensor of shape `(episodes, points, ...)`.
        y: tensor of shape `(episodes, points, ...)`, the targets.
        support: int. The number of support points.
    """
    inputs = {
        "support_x": x[:, :support],
        "support_y": y[:, :support],
        "query_x": x[:, support:],
    }
    return inputs, y[:, support:]


def _no_episodes(spec):
    return tf.zeros([0, *spec.shape[1:]], spec.dtype)
