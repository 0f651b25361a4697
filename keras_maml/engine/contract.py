"""The form of a meta-batch, checked when a step is traced."""

import keras
import numpy as np
import tensorflow as tf

from keras_maml.engine import run_time_checks
from keras_maml.engine.run_time_checks import check_lengths

KEYS = ("support_x", "support_y", "query_x")
_FORM = (
    "A meta-batch is `(x, y)` or `(x, y, sample_weight)`, where x is a dict of "
    '"support_x" (tasks, support, ...), "support_y" (tasks, support, ...), '
    '"query_x" (tasks, query, ...) and optionally "support_weight" '
    "(tasks, support), and y are the query targets (tasks, query, ...)."
)
_TASKS = (
    f"{_FORM} All arrays must have the same number of tasks (first axis), and "
    "there must be at least one task."
)
_SUPPORT = (
    f"{_FORM} All arrays of the support set must have the same number of "
    "examples (second axis). Neither the support nor the query set may be "
    "empty."
)
_QUERY = (
    f"{_FORM} All arrays of the query set must have the same number of "
    "examples (second axis). Neither the support nor the query set may be "
    "empty."
)
_TARGETS = (
    f"{_FORM} The first two axes of y must equal the first two axes of "
    '"query_x".'
)
_WEIGHTS = (
    "`sample_weight` must have the axes (tasks, query), or (tasks, 1) for one "
    "weight per task."
)


def unpack(data):
    """Checks a meta-batch, and returns `(x, y, sample_weight)`."""
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    x = check_inputs(x)
    y, sample_weight = check_targets(x, y, sample_weight)
    return x, y, sample_weight


def episode_numbers(data):
    """Returns a dict of the numbers of a meta-batch's episodes, if it has."""
    x = keras.utils.unpack_x_y_sample_weight(data)[0]
    return {"episode": x["episode"]} if "episode" in x else {}


def check_inputs(x):
    """Returns `x` as a dict of tensors.

    Sizes that a trace does not know are checked when the tensors have values.

    Raises:
        ValueError: if `x` does not have the form of a meta-batch.
    """
    if not isinstance(x, dict):
        raise ValueError(f"{_FORM} Received: x of type {type(x).__name__}")
    missing = [key for key in KEYS if key not in x]
    # The numbers of episodes are not data, see `episode_numbers`.
    x = {key: value for key, value in x.items() if key != "episode"}
    unknown = [key for key in x if key not in (*KEYS, "support_weight")]
    if missing or unknown:
        raise ValueError(
            f"{_FORM} Missing keys: {missing}; unknown keys: {unknown}. "
            f"Received: x with keys {sorted(x)}"
        )
    x = {key: tensors(key, x[key]) for key in x}
    shapes = {
        key: [t.shape for t in tf.nest.flatten(x[key])] for key in sorted(x)
    }
    received = f"Received: x of shapes {_describe(shapes)}"
    for key in shapes:
        for shape in shapes[key]:
            if shape.rank is None or shape.rank < 2:
                raise ValueError(
                    f'{_FORM} "{key}" must have at least the two axes of '
                    "tasks and examples. If the number of axes is unknown, "
                    f"call `tf.ensure_shape`. {received}"
                )
    if shapes.get("support_weight", [tf.TensorShape([1, 1])])[0].rank != 2:
        raise ValueError(
            f'{_FORM} "support_weight" must have one number per example. '
            f"{received}"
        )
    support = [x[key] for key in x if key != "query_x"]
    return run_time_checks.after(
        [
            check_lengths(x, 0, _TASKS, received),
            check_lengths(support, 1, _SUPPORT, received),
            check_lengths(x["query_x"], 1, _QUERY, received),
        ],
        x,
    )


def check_targets(x, y, sample_weight):
    """Returns the query targets and their weights (or `None`) as tensors.

    Raises:
        ValueError: if the targets or weights do not fit the meta-batch.
    """
    if y is None:
        raise ValueError(f"{_FORM} Received: y=None")
    y = tensors("y", y)
    query = tf.nest.flatten(x["query_x"])[0]
    checks = []
    for target in tf.nest.flatten(y):
        shape = target.shape
        received = (
            f'Received: y of shape {shape}, "query_x" of shape {query.shape}'
        )
        if shape.rank is None or shape.rank < 2:
            raise ValueError(f"{_TARGETS} {received}")
        checks += [
            check_lengths([query, target], axis, _TARGETS, received)
            for axis in (0, 1)
        ]
    sample_weight = tf.nest.map_structure(
        lambda w: None if w is None else _tensor("sample_weight", w),
        sample_weight,
    )
    for weight in tf.nest.flatten(sample_weight):
        if weight is None:
            continue
        shape = weight.shape
        received = (
            f"Received: sample_weight of shape {shape}, "
            f'"query_x" of shape {query.shape}'
        )
        if shape.rank is None or shape.rank < 2:
            raise ValueError(
                f"{_WEIGHTS} `class_weight` cannot be used, because a label "
                f"means another class in each task. {received}"
            )
        checks.append(check_lengths([query, weight], 0, _WEIGHTS, received))
        if shape[1] != 1:
            checks.append(
                check_lengths([query, weight], 1, _WEIGHTS, received, True)
            )
    sample_weight = _without_none(sample_weight, query)
    return run_time_checks.after(checks, (y, sample_weight))


def _without_none(sample_weight, query):
    """Gives targets without a weight the weight 1 where others have one."""
    weights = tf.nest.flatten(sample_weight)
    if all(weight is None for weight in weights):
        return None
    if all(weight is not None for weight in weights):
        return sample_weight
    ones = tf.ones(tf.shape(query)[:2], keras.backend.floatx())
    return tf.nest.map_structure(
        lambda weight: ones if weight is None else weight, sample_weight
    )


def check_support(support_x, support_y, support_weight=None):
    """Returns one task's support set as a dict of tensors.

    Raises:
        ValueError: if inputs and targets do not have the same, positive number
            of examples.
    """
    x = {
        "support_x": tensors("support_x", support_x),
        "support_y": tensors("support_y", support_y),
    }
    if support_weight is not None:
        x["support_weight"] = tensors("support_weight", support_weight)
    shapes = [t.shape for t in tf.nest.flatten(x)]
    sizes = {shape[0] if shape.rank else 0 for shape in shapes}
    if len(sizes) > 1 or 0 in sizes:
        raise ValueError(
            "`support_x`, `support_y` and, if passed, `support_weight` must "
            "have the same number of examples (first axis), at least one. "
            f"Received: arrays of shapes {[str(shape) for shape in shapes]}"
        )
    return x


def input_signature(inputs, learner):
    """Returns the serving signature for the inputs of a meta-batch.

    Args:
        inputs: dict of tensors, `x` of a meta-batch.
        learner: a built Keras model. If an axis of its input may have any
            length, the same axis of the signature may have any length.

    Returns:
        A dict from `"support_x"`, `"support_y"` and `"query_x"` to
        a `keras.KerasTensor` with any number of tasks and examples. If the
        learner has several inputs, the dict holds structures of them.
    """
    learner_inputs = getattr(learner, "inputs", None) or []

    def spec(key, tensor):
        shape = list(tensor.shape[2:])
        if key != "support_y" and len(learner_inputs) == 1:
            shape = list(learner_inputs[0].shape[1:])
        return keras.KerasTensor((None, None, *shape), tensor.dtype.name)

    return {
        key: tf.nest.map_structure(lambda t, key=key: spec(key, t), inputs[key])
        for key in KEYS
    }


def tensors(name, values):
    """Returns a structure of dense tensors of numbers.

    Args:
        name: string, the argument that the values belong to.
        values: structure of arrays and tensors.

    Raises:
        ValueError: if a value is no dense array of numbers.
    """
    return tf.nest.map_structure(lambda value: _tensor(name, value), values)


def check_dtype(name, value):
    """Raises `ValueError` if an array or tensor holds no numbers."""
    is_array = isinstance(value, np.ndarray)
    # Objects, texts and times.
    if value.dtype.kind in "OSUMm" if is_array else value.dtype == tf.string:
        raise ValueError(
            f"`{name}` must hold numbers. Make an integer of each class, such "
            "as with `np.unique(labels, return_inverse=True)`. "
            f"Received: {name} of dtype {value.dtype}"
        )


def _tensor(name, value):
    if value is None:
        raise ValueError(f"{_FORM} Received: a value that is None in {name}")
    if isinstance(value, (tf.SparseTensor, tf.RaggedTensor)):
        raise ValueError(
            f"`{name}` must be a dense tensor. Call `tf.sparse.to_dense(...)`, "
            "or `.to_tensor()` of a RaggedTensor. Rows of padding can have the "
            "weight 0 in `support_weight` or `sample_weight`. "
            f"Received: {name} of type {type(value).__name__}"
        )
    if not tf.is_tensor(value):
        value = np.asarray(value)
        if value.dtype.kind == "f":
            value = value.astype(keras.backend.floatx())
    check_dtype(name, value)
    return tf.convert_to_tensor(value)


def _describe(shapes):
    texts = {key: [_text(s) for s in shapes[key]] for key in shapes}
    return {
        key: text[0] if len(text) == 1 else text for key, text in texts.items()
    }


def _text(shape):
    return "of unknown rank" if shape.rank is None else str(tuple(shape))
