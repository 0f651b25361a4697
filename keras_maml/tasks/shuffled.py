"""Permutations of which only a few places are needed."""

import tensorflow as tf

from keras_maml.tasks.task_distribution import permutations
from keras_maml.tasks.task_distribution import split_seed
from keras_maml.tasks.task_distribution import uniform

# Up to this size, random numbers are sorted. Beyond it, a cipher computes the
# places that are needed, which takes as long as 20,000 / size sorted numbers.
_MOST_SORTED = 1024
# With TensorFlow's own 4, some orders of ten things come six times as often as
# others.
_ROUNDS = 12


def shuffled(
    seed: tf.Tensor, places: tf.Tensor, sizes: tf.Tensor, most: int
) -> tf.Tensor:
    """Returns what stands at some places of permutations of `range(size)`.

    Ten rows of a million are drawn without a list of the million.

    Args:
        seed: int tensor of shape `(2,)`.
        places: int32 tensor of shape `(..., places)`. Places beyond a size
            begin anew.
        sizes: int32 tensor of shape `(...)`, a permutation for each. Of size 0,
            every place holds 0.
        most: int, the largest size there may be. The permutations depend on it.

    Returns:
        int32 tensor of shape `(..., places)`.
    """
    sizes = tf.maximum(sizes, 1)
    places = places % sizes[..., None]
    width = min(max(most, 1), _MOST_SORTED)
    scores = uniform(seed, [*sizes.shape, width])
    exists = tf.range(width) < sizes[..., None]
    order = tf.math.top_k(tf.where(exists, scores, -1.0), width).indices
    sorted_places = tf.minimum(places, width - 1)
    drawn = tf.gather(order, sorted_places, batch_dims=len(sizes.shape))
    if most <= _MOST_SORTED:
        return drawn
    return tf.where(
        sizes[..., None] > _MOST_SORTED, _ciphered(seed, places, sizes), drawn
    )


def in_rounds(seed: int, numbers: tf.Tensor, size: int) -> tf.Tensor:
    """Returns one of `range(size)` for each number, in a new order each round.

    Args:
        seed: int.
        numbers: int64 tensor of shape `(numbers,)`. Round r is of the numbers
            from `r * size` to `(r + 1) * size - 1`.
        size: int.

    Returns:
        int32 tensor of shape `(numbers,)`.
    """
    rounds, places = numbers // size, tf.cast(numbers % size, tf.int32)
    # Negative, because the blocks of episodes have the other seeds.
    turned = tf.bitwise.invert(rounds)
    seed = tf.constant(seed, tf.int64)
    if size > _MOST_SORTED:
        seeds = tf.stack([tf.fill(tf.shape(turned), seed), turned], 1)
        return _by_cipher(seeds, places, tf.fill(tf.shape(places), size))
    distinct, index = tf.unique(turned)
    orders = tf.map_fn(
        lambda number: permutations(tf.stack([seed, number]), 1, size)[0],
        distinct,
        fn_output_signature=tf.TensorSpec([size], tf.int32),
    )
    return tf.gather_nd(orders, tf.stack([index, places], 1))


def _ciphered(seed, places, sizes):
    # The cipher would take long for what was sorted.
    sizes = tf.maximum(sizes, _MOST_SORTED)
    number = tf.shape(places)[-1]
    seeds = tf.random.split(
        split_seed(seed, 1)[0], sizes.shape.num_elements(), alg="philox"
    )
    drawn = _by_cipher(
        tf.repeat(seeds, number, 0),
        tf.reshape(places, [-1]),
        tf.repeat(tf.reshape(sizes, [-1]), number),
    )
    return tf.reshape(drawn, tf.shape(places))


def _by_cipher(seeds, places, sizes):
    return tf.raw_ops.RandomIndexShuffle(
        index=places,
        # The third number chooses the family of permutations.
        seed=tf.pad(seeds, [[0, 0], [0, 1]], constant_values=2026),
        max_index=sizes - 1,
        rounds=_ROUNDS,
    )
