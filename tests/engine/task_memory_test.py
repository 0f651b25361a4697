"""How many tasks fit the memory of a device."""

import pytest
import tensorflow as tf

from keras_maml import tensorflow_internals
from keras_maml.engine import task_memory

MIB = 2**20


def graph_of(function):
    spec = tf.TensorSpec((256, 1024), tf.float32)  # 1 MiB
    function = tf.function(function, autograph=False)
    return function.get_concrete_function(spec).graph


def test_a_tensor_is_freed_after_its_last_use():
    def chain(x):
        for _ in range(10):
            x = tf.sin(x)
        return tf.reduce_sum(x)

    def kept(x):
        values = [x]
        for _ in range(10):
            values.append(tf.sin(values[-1]))
        return tf.add_n(values)

    assert task_memory.peak_bytes(graph_of(chain)) == pytest.approx(
        2 * MIB, rel=1e-3
    )
    assert task_memory.peak_bytes(graph_of(kept)) == pytest.approx(
        12 * MIB, rel=1e-3
    )


def test_a_view_needs_no_memory_but_keeps_its_origin():
    def views(x):
        y = tf.reshape(tf.identity(tf.sin(x)), [-1])
        z = tf.reduce_sum(tf.cos(x))
        return tf.reduce_sum(y) + z

    assert task_memory.peak_bytes(graph_of(views)) == pytest.approx(
        3 * MIB, rel=1e-3
    )


def test_what_is_inside_of_a_loop_counts():
    def loop(x):
        def body(i, x):
            return i + 1, tf.sin(x) * tf.cos(x)

        return tf.while_loop(lambda i, _: i < 3, body, [0, x])[1]

    def plain(x):
        return tf.sin(x)

    assert task_memory.peak_bytes(graph_of(loop)) >= 5 * MIB
    assert task_memory.peak_bytes(graph_of(plain)) <= 2.01 * MIB


def test_half_of_the_memory_is_for_tasks(monkeypatch):
    graph = graph_of(lambda x: tf.reduce_sum(tf.sin(x)))
    device = tf.config.LogicalDevice("/device:GPU:0", "GPU")

    def fit(limit):
        monkeypatch.setattr(
            tensorflow_internals, "memory_limit", lambda device: limit
        )
        return task_memory.tasks_that_fit(graph, device)

    assert fit(40 * MIB) == 10
    assert fit(1) == 1
    assert fit(None) == 32
