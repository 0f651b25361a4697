"""Many small tensors as a few vectors."""

import tensorflow as tf

from keras_maml.exact.constants import constant

# The elements of a small tensor. Copying more costs more than it saves.
_MAX_SMALL = 4096


class Packing:
    """Packs the small tensors of a list into one vector for each dtype.

    A loop in a graph has about ten operations for each of its variables.

    Args:
        specs: list of `tf.TensorSpec`, of the tensors in the list.
    """

    def __init__(self, specs):
        small = {}
        for i, spec in enumerate(specs):
            size = spec.shape.num_elements()
            if size is not None and size <= _MAX_SMALL:
                small.setdefault(spec.dtype, []).append(i)
        self._groups = [group for group in small.values() if len(group) > 1]
        packed = {i for group in self._groups for i in group}
        self._rest = [i for i in range(len(specs)) if i not in packed]
        self._specs = list(specs)
        self._sizes = [spec.shape.num_elements() for spec in specs]

    def pack(self, tensors):
        """Returns a shorter list of tensors."""
        flat = constant((-1,), tf.int32)
        vectors = [
            tf.concat([tf.reshape(tensors[i], flat) for i in group], 0)
            for group in self._groups
        ]
        return [tensors[i] for i in self._rest] + vectors

    def zeros(self):
        """Returns what `pack` would make of zeros."""
        specs = [self._specs[i] for i in self._rest]
        zeros = [tf.zeros(spec.shape, spec.dtype) for spec in specs]
        for group in self._groups:
            size = sum(self._sizes[i] for i in group)
            zeros.append(tf.zeros([size], self._specs[group[0]].dtype))
        return zeros

    def unpack(self, tensors):
        """Returns the list that `pack` has been given."""
        result = dict(zip(self._rest, tensors))
        for group, vector in zip(self._groups, tensors[len(self._rest) :]):
            parts = tf.split(vector, [self._sizes[i] for i in group])
            for i, part in zip(group, parts):
                shape = constant(tuple(self._specs[i].shape), tf.int32)
                result[i] = tf.reshape(part, shape)
        return [result[i] for i in range(len(self._specs))]
