"""TensorFlow's random numbers, from operations that can get a task axis.

TensorFlow's kernels take one seed. These functions compute the same numbers
from whole numbers alone, so that each task can have a seed of its own.

Reference:
    Salmon et al., 2011, "Parallel Random Numbers: As Easy as 1, 2, 3",
    Philox-4x32-10. TensorFlow makes its key and counter from a seed by the
    same function.
"""

import math

import tensorflow as tf

_ROUNDS = 10
_FACTORS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
# The key that TensorFlow scrambles seeds with.
_SEED_KEY = (0x3EC8F720, 0x02461E29)
_MASK = 0xFFFFFFFF

# The random bits of a number in [0, 1).
_BITS = {
    tf.float64: 52,
    tf.float32: 23,
    tf.float16: 10,
    tf.bfloat16: 7,
}


def uniform(shape, seed, minval=0, maxval=None, dtype=tf.float32):
    """`tf.random.stateless_uniform` for a known shape.

    Args:
        shape: list of ints.
        seed: integer tensor `(2,)`.
        minval: scalar. For integers, `None` means all of them.
        maxval: scalar.
        dtype: a `tf.DType`.
    """
    dtype = tf.as_dtype(dtype)
    if not dtype.is_integer:
        maxval = _as(1 if maxval is None else maxval, dtype)
        minval = _as(minval, dtype)
        return _fractions(shape, seed, dtype) * (maxval - minval) + minval
    if dtype.size == 8:
        words = _words(seed, 2 * math.prod(shape))
        bits = words[::2] | tf.bitwise.left_shift(words[1::2], _u64(32))
    else:
        bits = _words(seed, math.prod(shape))
    bits = tf.reshape(bits, shape)
    if minval is None:
        return tf.cast(bits, dtype)
    minval, maxval = tf.cast(minval, tf.int64), tf.cast(maxval, tf.int64)
    span = tf.cast(maxval - minval, tf.uint64)
    return tf.cast(minval + tf.cast(bits % span, tf.int64), dtype)


def normal(shape, seed, mean=0.0, stddev=1.0, dtype=tf.float32):
    """`tf.random.stateless_normal` for a known shape, see `uniform`."""
    dtype = tf.as_dtype(dtype)
    # Half precision is rounded at the end.
    exact = tf.float64 if dtype == tf.float64 else tf.float32
    count = math.prod(shape)
    pairs = tf.reshape(_fractions([count + count % 2], seed, exact), [-1, 2])
    radius = tf.sqrt(-2.0 * tf.math.log(tf.maximum(pairs[:, 0], 1e-7)))
    angle = 2.0 * math.pi * pairs[:, 1]
    z = tf.stack([tf.sin(angle) * radius, tf.cos(angle) * radius], -1)
    z = tf.cast(tf.reshape(tf.reshape(z, [-1])[:count], shape), dtype)
    return z * _as(stddev, dtype) + _as(mean, dtype)


def fold_in(seed, number):
    """`tf.random.experimental.stateless_fold_in`."""
    return tf.stack([uniform([], seed, None, None, number.dtype), number])


def _as(value, dtype):
    # `tf.cast` would round a Python number to float32 first.
    return (
        tf.cast(value, dtype)
        if tf.is_tensor(value)
        else tf.constant(value, dtype)
    )


def _fractions(shape, seed, dtype):
    """Returns numbers in [0, 1)."""
    bits = _BITS[dtype]
    count = math.prod(shape)
    if dtype == tf.float64:
        words = _words(seed, 2 * count)
        high = words[::2] & _u64(2 ** (bits - 32) - 1)
        numbers = tf.bitwise.left_shift(high, _u64(32)) | words[1::2]
    else:
        numbers = _words(seed, count) & _u64(2**bits - 1)
    # Exact: so few bits fit the dtype.
    values = tf.cast(tf.cast(numbers, tf.int64), dtype) * tf.cast(
        2.0**-bits, dtype
    )
    return tf.reshape(values, shape)


def _words(seed, count):
    """Returns random numbers of 32 bits, as uint64 of shape `(count,)`."""
    key, offset = _key_and_offset(seed)
    blocks = tf.range(-(-count // 4), dtype=tf.int64)
    blocks = tf.cast(blocks, tf.uint64)
    zeros = tf.zeros_like(blocks)
    words = _philox(
        [blocks, offset[0] + zeros], [zeros, offset[1] + zeros], key
    )
    return tf.reshape(tf.transpose(words), [-1])[:count]


def _key_and_offset(seed):
    """Returns a key, and the second half of a counter, from a seed."""
    seed = tf.cast(tf.cast(seed, tf.int64), tf.uint64)
    low, high = seed & _u64(_MASK), tf.bitwise.right_shift(seed, _u64(32))
    words = _philox(low[:, None], high[:, None], _u64(_SEED_KEY))
    return words[:2, 0], words[2:, 0]


def _philox(even, odd, key):
    """Returns four random words for each counter.

    Args:
        even: the words 0 and 2 of counters, `(2, n)`.
        odd: the words 1 and 3, `(2, n)`.
        key: uint64 `(2,)`.

    Returns:
        A tensor `(4, n)`.
    """
    factors = _u64(_FACTORS)[:, None]
    mask = _u64(_MASK)
    for number in range(_ROUNDS):
        steps = _u64([number * step & _MASK for step in _KEY_STEPS])
        round_key = (key + steps & mask)[:, None]
        products = tf.reverse(factors * even, [0])
        high = tf.bitwise.right_shift(products, _u64(32))
        even = high ^ odd ^ round_key
        odd = products & mask
    return tf.stack([even[0], odd[0], even[1], odd[1]])


def _u64(value):
    return tf.constant(value, tf.uint64)
