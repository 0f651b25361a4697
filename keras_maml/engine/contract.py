"""The form of a meta-batch, and its checks at trace time."""

import keras
import numpy as np
import tensorflow as tf

KEYS = ("support_x", "support_y", "query_x")
_FORM = (
    "A meta-batch is `(x, y)` or `(x, y, sample_weight)` with x a dict of "
    '"support_x" (tasks, support, ...), "support_y" (tasks, support, ...), '
    '"query_x" (tasks, query, ...) and optionally "support_weight" '
    "(tasks, support), and y the query targets (tasks, query, ...)."
)


def check_inputs(x):
    """Returns `x` as a dict of tensors.

    Raises:
        ValueError: if it is not in the contract's form.
    """
    if not isinstance(x, dict):
        raise ValueError(f"{_FORM} Received: x of type {type(x).__name__}")
    missing = [key for key in KEYS if key not in x]
    unknown = [key for key in x if key not in (*KEYS, "support_weight")]
    if missing or unknown:
        raise ValueError(
            f"{_FORM} Missing keys: {missing}; unknown keys: {unknown}. "
            f"Received: x with keys {sorted(x)}"
        )
    x = {key: tf.nest.map_structure(_tensor, x[key]) for key in x}
    shapes = {
        key: [t.shape for t in tf.nest.flatten(x[key])] for key in sorted(x)
    }
    received = f"Received: shapes {_describe(shapes)}"
    for key in shapes:
        for shape in shapes[key]:
            if shape.rank is None or shape.rank < 2:
                raise ValueError(
                    f'{_FORM} "{key}" must have at least the two axes of '
                    f"tasks and examples. {received}"
                )
    tasks = {s[0] for v in shapes.values() for s in v if s[0] is not None}
    if len(tasks) > 1:
        raise ValueError(
            f"{_FORM} The number of tasks (first axis) must be the same "
            f"everywhere. {received}"
        )
    if tasks == {0}:
        raise ValueError(f"{_FORM} There must be at least one task. {received}")
    support = shapes["support_x"] + shapes["support_y"]
    support += shapes.get("support_weight", [])
    sizes = {s[1] for s in support if s[1] is not None}
    if len(sizes) > 1:
        raise ValueError(
            f"{_FORM} The support set (second axis) must have one size. "
            f"{received}"
        )
    if 0 in sizes | {s[1] for s in shapes["query_x"]}:
        raise ValueError(
            f"{_FORM} Neither the support nor the query set may be empty. "
            f"{received}"
        )
    if shapes.get("support_weight", [tf.TensorShape([1, 1])])[0].rank != 2:
        raise ValueError(
            f'{_FORM} "support_weight" has one number an example. {received}'
        )
    return x


def check_targets(x, y, sample_weight):
    """Returns the query targets and their weights (or `None`) as tensors.

    Raises:
        ValueError: if they are not in the contract's form.
    """
    if y is None:
        raise ValueError(f"{_FORM} Received: y=None")
    y = tf.nest.map_structure(_tensor, y)
    if sample_weight is not None:
        sample_weight = tf.nest.map_structure(_tensor, sample_weight)
    query = tf.nest.flatten(x["query_x"])[0].shape
    for target in tf.nest.flatten(y):
        shape = target.shape
        if (
            shape.rank is None
            or shape.rank < 2
            or not (query[:2].is_compatible_with(shape[:2]))
        ):
            raise ValueError(
                f"{_FORM} The first two axes of y must be those of "
                f'"query_x". Received: y of shape {shape}, "query_x" of '
                f"shape {query}"
            )
    for weight in tf.nest.flatten(sample_weight):
        if weight is None:
            continue
        shape = weight.shape
        if shape.rank is None or shape.rank < 2:
            raise ValueError(
                "`sample_weight` must have the axes (tasks, query), or "
                "(tasks, 1) for one weight a task. `class_weight` cannot be "
                "used: the labels of one task mean other classes in the "
                f"next. Received: sample_weight of shape {shape}"
            )
        if not shape[:1].is_compatible_with(query[:1]) or (
            shape[1] not in (None, 1, query[1]) and query[1] is not None
        ):
            raise ValueError(
                "`sample_weight` must have the axes (tasks, query), or "
                "(tasks, 1) for one weight a task. Received: sample_weight of "
                f'shape {shape}, "query_x" of shape {query}'
            )
    return y, sample_weight


def check_support(support_x, support_y, support_weight=None):
    """Returns one task's support set as a dict of tensors.

    Raises:
        ValueError: if inputs and targets do not have the same, positive number
            of examples.
    """
    x = {
        "support_x": tf.nest.map_structure(_tensor, support_x),
        "support_y": tf.nest.map_structure(_tensor, support_y),
    }
    if support_weight is not None:
        x["support_weight"] = _tensor(support_weight)
    shapes = [t.shape for t in tf.nest.flatten(x)]
    sizes = {shape[0] if shape.rank else 0 for shape in shapes}
    if len(sizes) > 1 or 0 in sizes:
        raise ValueError(
            "`support_x`, `support_y` and, if there is one, `support_weight` "
            "are the examples of one task, (support, ...) each, of one size "
            "above 0. "
            f"Received: shapes {[str(s) for s in shapes]}"
        )
    return x


def input_signature(inputs, learner):
    """The serving signature that fits the inputs of a meta-batch.

    Args:
        inputs: dict of tensors, `x` of a meta-batch.
        learner: a built Keras model. Where its own input may have any length,
            so may what is served.

    Returns:
        A dict from `"support_x"`, `"support_y"` and `"query_x"` to
        a `keras.KerasTensor` with any number of tasks and examples, or to a
        nest of them if the learner has several inputs.
    """
    known = getattr(learner, "inputs", None) or []

    def spec(key, tensor):
        shape = list(tensor.shape[2:])
        if key != "support_y" and len(known) == 1:
            shape = list(known[0].shape[1:])
        return keras.KerasTensor((None, None, *shape), tensor.dtype.name)

    return {
        key: tf.nest.map_structure(lambda t, key=key: spec(key, t), inputs[key])
        for key in KEYS
    }


def _tensor(value):
    if value is None:
        raise ValueError(f"{_FORM} Received: a value that is None")
    if tf.is_tensor(value):
        return value
    value = np.asarray(value)
    if value.dtype.kind == "f":
        value = value.astype(keras.backend.floatx())
    return tf.convert_to_tensor(value)


def _describe(shapes):
    return {
        key: str(tuple(v[0])) if len(v) == 1 else [str(tuple(s)) for s in v]
        for key, v in shapes.items()
    }
