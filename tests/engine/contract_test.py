"""The form of a meta-batch: sizes and types that only a trace or a run sees."""

import numpy as np
import pytest
import tensorflow as tf

from keras_maml.engine import contract
from tests.sample_models import regression_batch

X, Y = regression_batch(tasks=4, support=6, query=5)
WEIGHT = np.ones((4, 5), "float32")


def of_any_size(array):
    return tf.TensorSpec([None, None, *array.shape[2:]], array.dtype)


@tf.function(
    input_signature=[
        {key: of_any_size(value) for key, value in X.items()},
        of_any_size(Y),
        of_any_size(WEIGHT),
    ],
    autograph=False,
)
def checked(x, y, weight):
    x = contract.check_inputs(x)
    y, weight = contract.check_targets(x, y, weight)
    # What reads the results reads them after the checks.
    return [tf.size(t) for t in (*x.values(), y, weight)]


def test_sizes_that_the_trace_does_not_know():
    checked(X, Y, WEIGHT)
    checked(X, Y, WEIGHT[:, :1])
    for count in (1, 3):
        x = {key: value[:count] for key, value in X.items()}
        checked(x, Y[:count], WEIGHT[:count])


# What is wrong → the key or argument, its value, and the message.
SIZES = {
    "fewer tasks": ("query_x", X["query_x"][:2], "same number of tasks"),
    "one support target": (
        "support_y",
        X["support_y"][:, :1],
        "All arrays of the support set must have the same number",
    ),
    "fewer targets": ("y", Y[:, :3], "The first two axes of y must equal"),
    "targets of one task": ("y", Y[:1], "The first two axes of y must equal"),
    "weights of one task": ("weight", WEIGHT[:1], "`sample_weight` must have"),
    "fewer weights": ("weight", WEIGHT[:, :3], "`sample_weight` must have"),
}


@pytest.mark.parametrize("name", SIZES)
def test_wrong_size_when_it_runs(name):
    key, value, message = SIZES[name]
    arguments = {"y": Y, "weight": WEIGHT}
    if key in arguments:
        arguments[key] = value
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            checked(X, **arguments)
        return
    with pytest.raises(tf.errors.InvalidArgumentError, match=message) as error:
        checked({**X, key: value}, **arguments)
    assert "Received: arrays whose lengths along axis" in str(error.value)


@pytest.mark.parametrize(
    ("keys", "axis", "message"),
    [
        (X, 0, "at least one task"),
        (("support_x", "support_y"), 1, "Neither the support nor the query"),
        (("query_x",), 1, "Neither the support nor the query"),
    ],
)
def test_nothing_at_all_when_it_runs(keys, axis, message):
    empty = {key: X[key].take([], axis) for key in keys}
    y, weight = Y, WEIGHT
    if "query_x" in keys:
        y, weight = y.take([], axis), weight.take([], axis)
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        checked({**X, **empty}, y, weight)


def test_known_sizes_add_no_operations():
    def step(x, y):
        x = contract.check_inputs(x)
        return x, contract.check_targets(x, y, None)

    spec = {k: tf.TensorSpec(v.shape, v.dtype) for k, v in X.items()}
    y_spec = tf.TensorSpec(Y.shape, Y.dtype)
    graph = tf.function(step).get_concrete_function(spec, y_spec).graph
    assert {op.type for op in graph.get_operations()} <= {
        "Placeholder",
        "Identity",
        "NoOp",
    }


def test_unknown_rank():
    def step(x):
        contract.check_inputs(x)

    spec = {key: tf.TensorSpec(None, "float32") for key in X}
    with pytest.raises(ValueError, match="tf.ensure_shape") as error:
        tf.function(step).get_concrete_function(spec)
    assert "'query_x': 'of unknown rank'" in str(error.value)


SPARSE = tf.sparse.from_dense(X["support_x"])
RAGGED = tf.RaggedTensor.from_tensor(X["support_x"])


# A value that is no dense tensor of numbers, and what the message says.
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (SPARSE, "Call `tf.sparse.to_dense"),
        (RAGGED, "Received: NAME of type RaggedTensor"),
        (np.full((4, 6, 1), "cat"), "Received: NAME of dtype <U3"),
        (tf.fill((4, 6, 1), "cat"), "Received: NAME of dtype"),
        (np.full((4, 6, 1), None), "Received: NAME of dtype object"),
        (None, "a value that is None in NAME"),
    ],
)
def test_no_dense_numbers(value, message):
    for name in ("support_x", "support_y"):
        with pytest.raises(ValueError) as error:
            contract.check_inputs({**X, name: value})
        assert message.replace("NAME", name) in str(error.value)
    with pytest.raises(ValueError) as error:
        contract.check_support(value, X["support_y"])
    assert message.replace("NAME", "support_x") in str(error.value)
    if value is None:
        return
    for arguments in ((value, None), (Y, value)):
        name = "y" if arguments[0] is value else "sample_weight"
        with pytest.raises(ValueError) as error:
            contract.check_targets(X, *arguments)
        assert message.replace("NAME", name) in str(error.value)
