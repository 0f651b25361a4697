"""Random numbers for a task axis are TensorFlow's."""

import numpy as np
import pytest
import tensorflow as tf

from keras_maml.exact import random_numbers

SEEDS = [
    tf.constant([3, 17]),
    tf.constant([-5, 2**31 - 1]),
    tf.constant([12345678901, -98765432109], tf.int64),
]


def assert_equal(actual, expected):
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    assert (actual.numpy() == expected.numpy()).all()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("shape", [[], [7], [3, 5]])
def test_floats(seed, shape):
    for dtype in (tf.float32, tf.float64, tf.bfloat16, tf.float16):
        for borders in ((), (-0.1, 0.3)):
            assert_equal(
                random_numbers.uniform(shape, seed, *borders, dtype=dtype),
                tf.random.stateless_uniform(shape, seed, *borders, dtype=dtype),
            )
        actual = random_numbers.normal(shape, seed, 0.1, 0.3, dtype)
        expected = tf.random.stateless_normal(shape, seed, 0.1, 0.3, dtype)
        assert actual.dtype == dtype
        np.testing.assert_allclose(
            tf.cast(actual, tf.float64),
            tf.cast(expected, tf.float64),
            # Of sines of other libraries, rounded to `dtype`.
            rtol={2: 2e-2, 4: 1e-5, 8: 1e-13}[dtype.size],
            atol={2: 1e-3, 4: 1e-6, 8: 1e-13}[dtype.size],
        )


@pytest.mark.parametrize("seed", SEEDS)
def test_integers(seed):
    for dtype in (tf.int32, tf.int64):
        assert_equal(
            random_numbers.uniform([5], seed, -4, 90, dtype),
            tf.random.stateless_uniform([5], seed, -4, 90, dtype),
        )
    for dtype in (tf.int32, tf.int64, tf.uint32, tf.uint64):
        assert_equal(
            random_numbers.uniform([5], seed, None, None, dtype),
            tf.random.stateless_uniform([5], seed, None, None, dtype),
        )
    number = tf.constant(7, tf.int64)
    assert_equal(
        random_numbers.fold_in(seed, number),
        tf.random.experimental.stateless_fold_in(seed, number),
    )


def test_each_task_may_have_its_own_seed():
    @tf.function(jit_compile=True, autograph=False)
    def vectorized(seeds):
        return tf.vectorized_map(
            lambda seed: random_numbers.uniform([3, 5], seed),
            seeds,
            fallback_to_while_loop=False,
        )

    seeds = tf.constant([[1, 2], [3, 17], [5, 6]], tf.int64)
    for numbers, seed in zip(vectorized(seeds), seeds):
        assert_equal(numbers, tf.random.stateless_uniform([3, 5], seed))
