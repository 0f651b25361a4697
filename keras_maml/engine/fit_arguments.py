"""The arguments of `fit`, `evaluate` and `predict`, before Keras sees them."""

import inspect

import keras
import numpy as np
import tensorflow as tf

from keras_maml import keras_distribution
from keras_maml.engine import contract
from keras_maml.engine.autotuner import without_autotuner
from keras_maml.streams import stream_of

# Which argument limits the steps over a dataset.
_LIMITS = (
    ("x", "steps_per_epoch"),
    ("x", "steps"),
    ("validation_data", "validation_steps"),
)


def checked(method, args, kwargs):
    """Checks a call of a method of `keras.Model`.

    Streams of this library get the numbers of their episodes, for errors, and
    other datasets lose TensorFlow's autotuner.

    Args:
        method: `keras.Model.fit`, `evaluate` or `predict`.
        args: tuple, the positional arguments, the model first.
        kwargs: dict, the others.

    Returns:
        An `inspect.BoundArguments`.

    Raises:
        ValueError: if the call would never end, if several replicas were to
            take several steps at a time, if an array holds texts or other
            objects, or if it has class weights and no dataset.
    """
    signature = inspect.signature(method)
    bound = signature.bind(*args, **kwargs)
    # `predict` of one process takes no loop of steps that fails.
    of_workers = keras_distribution.strategy_of_workers(args[0]) is not None
    if method is not keras.Model.predict or of_workers:
        _check_steps_per_execution(args[0])
    for name, limit in _LIMITS:
        if limit in signature.parameters:
            _check_ends(
                name,
                bound.arguments.get(name),
                limit,
                bound.arguments.get(limit),
            )
    for name in ("x", "y", "sample_weight", "validation_data"):
        _check_dtypes(name, bound.arguments.get(name))
    _check_class_weight(bound.arguments)
    for name in ("x", "validation_data"):
        data = bound.arguments.get(name)
        stream = stream_of(data)
        if stream is None:
            data = without_autotuner(data)
        elif not stream.has_numbers and method is not keras.Model.predict:
            data = stream.numbered()
        if data is not None:
            bound.arguments[name] = data
    return bound


def _check_steps_per_execution(model):
    # Before Keras reads data: workers would then wait for one another.
    replicas = model.distribute_strategy.num_replicas_in_sync
    if replicas > 1 and model.steps_per_execution > 1:
        raise ValueError(
            "TensorFlow cannot run Keras's loop of several steps on several "
            "replicas. Compile the model with `steps_per_execution=1`. "
            f"Received: steps_per_execution={model.steps_per_execution} "
            f"and {replicas} replicas"
        )


def _check_dtypes(name, arrays):
    # Keras would say "Invalid dtype: str32".
    if isinstance(arrays, dict):
        for key, value in arrays.items():
            _check_dtypes(key, value)
    elif isinstance(arrays, list | tuple):
        for value in arrays:
            _check_dtypes(name, value)
    elif isinstance(arrays, np.ndarray):
        contract.check_dtype(name, arrays)


def _check_class_weight(arguments):
    # Keras would look up one weight for each task. Of a dataset with targets
    # (T, Q, n), it looks up one for each query.
    weight, x = arguments.get("class_weight"), arguments.get("x")
    if weight is not None and not isinstance(x, tf.data.Dataset):
        targets = keras.tree.flatten(arguments.get("y"))
        dtypes = [str(getattr(y, "dtype", type(y))) for y in targets]
        raise ValueError(
            "`class_weight` cannot be used: Keras takes the first axis, of "
            "tasks, for the examples. Pass the weight of each query in "
            "`sample_weight`, of shape (tasks, query). "
            f"Received: class_weight={weight} and y of dtype {dtypes}"
        )


def _check_ends(name, dataset, limit, steps):
    if steps is not None or not isinstance(dataset, tf.data.Dataset):
        return
    if keras.config.max_steps_per_epoch():
        return
    if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError(
            f"An endless dataset needs `{limit}`: without it, the call would "
            "never end. To make a finite dataset, call "
            "`batch(tasks, count=...)` or `dataset.take(...)`. "
            f"Received: {limit}=None and {name}={dataset!r}"
        )
