"""Rows of all tasks, for a model that does not tell tasks apart."""

import tensorflow as tf


def all_rows(x, y, sample_weight=None):
    """Returns the rows of all support and query sets of a meta-batch."""

    def joined(support, query):
        both = tf.concat([support, query], 1)
        return tf.reshape(both, [-1, *both.shape[2:]])

    nest = tf.nest.map_structure
    inputs = nest(joined, x["support_x"], x["query_x"])
    targets = nest(joined, x["support_y"], y)
    support_weight = x.get("support_weight")
    if support_weight is None and sample_weight is None:
        return inputs, targets
    weights = (
        _weights(support_weight, x["support_y"]),
        _weights(sample_weight, y),
    )
    return inputs, targets, joined(*weights)


def query_rows(x, y, sample_weight=None):
    """Returns the rows of all query sets of a meta-batch."""

    def flat(t):
        return tf.reshape(t, [-1, *t.shape[2:]])

    inputs, targets = tf.nest.map_structure(flat, (x["query_x"], y))
    if sample_weight is None:
        return inputs, targets
    return inputs, targets, flat(_weights(sample_weight, y))


def _weights(weight, targets):
    """Returns weights of the shape `(tasks, rows)`."""
    shape = tf.shape(tf.nest.flatten(targets)[0])[:2]
    if weight is None:
        return tf.ones(shape)
    return tf.broadcast_to(tf.cast(weight, tf.float32), shape)
