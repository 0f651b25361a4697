"""The map over tasks: results, and memory that does not grow with them."""

import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from keras_maml import task_map


def square(task):
    value = task["a"]
    return {"square": value**2, "index": task["i"]}, (tf.reduce_sum(value),)


@pytest.mark.parametrize("eager", [True, False])
@pytest.mark.parametrize("parallelism", [1, 4])
def test_stacks_and_averages(eager, parallelism):
    a = np.arange(6, dtype="float32").reshape(3, 2)
    tasks = {"a": tf.constant(a), "i": tf.range(3)}

    def run():
        return task_map.map_tasks(square, tasks, parallelism=parallelism)

    each, (mean,) = run() if eager else tf.function(run)()
    np.testing.assert_array_equal(each["square"], a**2)
    np.testing.assert_array_equal(each["index"], [0, 1, 2])
    assert float(mean) == np.mean(a.sum(axis=1))


def test_shapes_are_static_where_they_can_be():
    @tf.function(
        input_signature=[
            tf.TensorSpec((3, None)),
            tf.TensorSpec((None, 2)),
        ]
    )
    def run(known, unknown):
        shapes = []
        for tensor in (known, unknown):
            (each,), _ = task_map.map_tasks(
                lambda t: ((t * 2,), ()), tensor, parallelism=2
            )
            shapes.append(each.shape)
        assert shapes[0].as_list() == [3, None]
        assert shapes[1].as_list() == [None, 2]
        return each

    np.testing.assert_array_equal(
        run(np.ones((3, 5)), np.ones((4, 2))), np.full((4, 2), 2.0)
    )


def test_result_does_not_depend_on_parallelism():
    rng = np.random.default_rng(0)
    a = rng.standard_normal((50, 7)).astype("float32")
    sums = {
        float(
            tf.function(
                lambda p=parallelism: task_map.map_tasks(
                    lambda t: ((), (tf.reduce_sum(tf.exp(t)),)),
                    tf.constant(a),
                    parallelism=p,
                )[1][0]
            )()
        )
        for parallelism in (1, 2, 8)
    }
    assert len(sums) == 1


# Peak memory is a process's own, so each size gets a process.
MEMORY = """
import json
import resource
import sys

import keras
import tensorflow as tf

import keras_maml

tasks = int(sys.argv[1])
learner = keras_maml.learners.conv4((48, 48, 3), n_way=5, filters=32)
meta_model = keras_maml.MetaModel(learner, task_parallelism=1)
meta_model.compile(
    optimizer="sgd",
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
)
labels = tf.tile(tf.range(5)[None], (tasks, 4))
images = tf.random.stateless_normal((tasks, 20, 48, 48, 3), (0, 0))
x = {"support_x": images, "support_y": labels, "query_x": images}


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


before = peak()
for _ in range(3):
    meta_model.train_on_batch(x, labels)
print(json.dumps({"growth": peak() - before}))
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_meta_batch():
    def growth(tasks):
        result = subprocess.run(
            [sys.executable, "-c", MEMORY, str(tasks)],
            check=True,
            capture_output=True,
            text=True,
        )
        return json.loads(result.stdout.splitlines()[-1])["growth"]

    small, large = growth(8), growth(64)
    print(f"8 tasks: {small:.0f} MiB, 64 tasks: {large:.0f} MiB")
    assert large < small + 10
