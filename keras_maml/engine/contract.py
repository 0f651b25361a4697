"""The form of a meta-batch, checked when a step is traced."""

import keras
import numpy as np
import tensorflow as tf

KEYS = ("support_x", "support_y", "query_x")
_FORM = (
    "A meta-batch is `(x, y)` or `(x, y, sample_weight)`, where x is a dict of "
    '"support_x" (tasks, support, ...), "support_y" (tasks, support, ...), '
    '"query_x" (tasks, query, ...) and optionally "support_weight" '
    "(tasks, support), and y are the query targets (tasks, query, ...)."
)


def check_inputs(x):
    """Returns `x` as a dict of tensors.

    Raises:
        ValueError: if `x` does not have the form of a meta-batch.
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
    received = f"Received: x of shapes {_describe(shapes)}"
    for key in shapes:
        for shape in shapes[key]:
            if shape.rank is None or shape.rank < 2:
                raise ValueError(
                    f'{_FORM} "{key}" must have at least the two axes of '
                    f"tasks and examples. {received}"
                )
    all_shapes = [shape for key in shapes for shape in shapes[key]]
    tasks = {shape[0] for shape in all_shapes} - {None}
    if len(tasks) > 1:
        raise ValueError(
            f"{_FORM} All arrays must have the same number of tasks (first "
            f"axis). {received}"
        )
    if tasks == {0}:
        raise ValueError(f"{_FORM} There must be at least one task. {received}")
    support_shapes = shapes["support_x"] + shapes["support_y"]
    support_shapes += shapes.get("support_weight", [])
    support_sizes = {shape[1] for shape in support_shapes} - {None}
    if len(support_sizes) > 1:
        raise ValueError(
            f"{_FORM} All arrays of the support set must have the same number "
            f"of examples (second axis). {received}"
        )
    if 0 in support_sizes | {shape[1] for shape in shapes["query_x"]}:
        raise ValueError(
            f"{_FORM} Neither the support nor the query set may be empty. "
            f"{received}"
        )
    if shapes.get("support_weight", [tf.TensorShape([1, 1])])[0].rank != 2:
        raise ValueError(
            f'{_FORM} "support_weight" must have one number per example. '
            f"{received}"
        )
    return x


def check_targets(x, y, sample_weight):
    """Returns the query targets and their weights (or `None`) as tensors.

    Raises:
        ValueError: if the targets or weights do not fit the meta-batch.
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
                f"{_FORM} The first two axes of y must equal the first two "
                f'axes of "query_x". Received: y of shape {shape}, "query_x" '
                f"of shape {query}"
            )
    for weight in tf.nest.flatten(sample_weight):
        if weight is None:
            continue
        shape = weight.shape
        if shape.rank is None or shape.rank < 2:
            raise ValueError(
                "`sample_weight` must have the axes (tasks, query), or "
                "(tasks, 1) for one weight per task. `class_weight` cannot be "
                "used, because a label means another class in each task. "
                f"Received: sample_weight of shape {shape}"
            )
        if not shape[:1].is_compatible_with(query[:1]) or (
            shape[1] not in (None, 1, query[1]) and query[1] is not None
        ):
            raise ValueError(
                "`sample_weight` must have the axes (tasks, query), or "
                "(tasks, 1) for one weight per task. Received: sample_weight "
                f'of shape {shape}, "query_x" of shape {query}'
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
    texts = {key: [str(tuple(s)) for s in shapes[key]] for key in shapes}
    return {
        key: text[0] if len(text) == 1 else text for key, text in texts.items()
    }
