"""Small tensors that a loop carries as one."""

import numpy as np
import tensorflow as tf

from keras_maml.engine.packing import Packing


def test_small_tensors_of_a_dtype_become_one():
    tensors = [
        tf.constant([[1.0, 2.0], [3.0, 4.0]]),
        tf.constant(5),
        tf.zeros([5000]),
        tf.constant(6.0),
        tf.zeros([0, 3]),
    ]
    packing = Packing([tf.TensorSpec(t.shape, t.dtype) for t in tensors])
    packed = packing.pack(tensors)
    assert [t.shape.as_list() for t in packed] == [[], [5000], [5]]
    for zero, part in zip(packing.zeros(), packed, strict=True):
        assert zero.shape == part.shape
        assert zero.dtype == part.dtype
        assert not np.any(zero)
    for before, after in zip(tensors, packing.unpack(packed), strict=True):
        np.testing.assert_array_equal(before, after)
        assert before.shape == after.shape


def test_tensors_of_unknown_size_are_left_alone():
    @tf.function(
        input_signature=[tf.TensorSpec([None]), tf.TensorSpec([2])],
        autograph=False,
    )
    def run(unknown, known):
        packing = Packing([unknown, known, known])
        packed = packing.pack([unknown, known, known + 1.0])
        assert len(packed) == 2
        return packing.unpack(packed)

    values = run([7.0, 8.0, 9.0], [1.0, 2.0])
    assert [value.tolist() for value in map(np.asarray, values)] == [
        [7.0, 8.0, 9.0],
        [1.0, 2.0],
        [2.0, 3.0],
    ]
