"""A SavedModel that adapts, for Python programs."""

import os
import re
from collections.abc import Mapping
from os import PathLike
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from keras_maml.serving.endpoints import DEFAULT_STEPS
from keras_maml.serving.endpoints import joined
from keras_maml.serving.endpoints import paths
from keras_maml.validation import check_integer

SIGNATURES = ("adapt", "adapt_with_options", "predict", "adapt_and_predict")


class AdaptiveModel:
    """Loads what `MetaModel.export` wrote, and checks what it is given.

    The object keeps nothing of any task, so threads may share it: whoever
    calls `adapt` keeps the weights. The shapes use T = tasks, S = support
    examples of a task, Q = query examples of a task. Several inputs are a dict
    or a list of arrays, as in `MetaModel.predict`.

    Args:
        path: the folder of a SavedModel, or a folder of versions, such as
            `learner` with the SavedModels `learner/1` and `learner/2`. Of
            versions, the largest number is loaded, as TensorFlow Serving does.
            A SavedModel is a program: load only those that you trust.
        max_examples: int, the largest number of examples of a task, in the
            support set or the query set. Defaults to `10_000`.

    Attributes:
        specs: dict from the name of each signature to a dict from the name of
            each input to its `tf.TensorSpec`. The inputs of `"predict"`
            include the weights.

    Raises:
        ValueError: if there is no SavedModel of a `MetaModel`.

    Example:

    ```python
    meta_model = keras_maml.MetaModel(
        keras_maml.learners.mlp(), inner_loss="mse"
    )
    meta_model.export(
        "outputs/sines/1",
        input_signature={
            "support_x": tf.TensorSpec((None, None, 1)),
            "support_y": tf.TensorSpec((None, None, 1)),
            "query_x": tf.TensorSpec((None, None, 1)),
        },
        verbose=False,
    )
    model = keras_maml.serving.AdaptiveModel("outputs/sines")
    x, _ = keras_maml.tasks.Sinusoid(seed=0).episode(0)
    weights = model.adapt(x["support_x"][None], x["support_y"][None])
    predictions = model.predict(x["query_x"][None], weights)  # (1, 10, 1)
    ```
    """

    def __init__(
        self, path: str | PathLike[str], max_examples: int = 10_000
    ) -> None:
        self.max_examples = check_integer("max_examples", max_examples)
        # Its variables live as long as this object does.
        self._saved_model = _load(os.fspath(path))
        self.specs = {}
        for name in SIGNATURES:
            function = self._saved_model.signatures[name]
            self.specs[name] = function.structured_input_signature[1]

    def adapt(
        self,
        support_x: ArrayLike | list | dict[str, Any],
        support_y: ArrayLike | list | dict[str, Any],
        support_weight: ArrayLike | None = None,
        inner_steps: int | ArrayLike | None = None,
    ) -> dict[str, np.ndarray]:
        """Learns tasks.

        Args:
            support_x: array of shape `(T, S, *input_shape)`.
            support_y: array of shape `(T, S, ...)`.
            support_weight: array of shape `(T, S)`, 0 for rows of padding.
                Defaults to `None`: all examples count the same.
            inner_steps: int, or an int for each task, the number of gradient
                steps. Defaults to that of the exported model.

        Returns:
            The adapted weights: a dict from their names to arrays
            `(T, ...)`. The names are those of `specs["predict"]`.

        Raises:
            ValueError: if an argument does not have this form, or if a task
                cannot be learned.
        """
        support = self._checked(
            "adapt", {"support_x": support_x, "support_y": support_y}
        )
        if support_weight is None and inner_steps is None:
            return self._run("adapt", support)
        name = "adapt_with_options"
        tasks, examples = next(iter(support.values())).shape[:2]
        if inner_steps is None:
            inner_steps = DEFAULT_STEPS
        if np.ndim(inner_steps) == 0:
            inner_steps = np.broadcast_to(inner_steps, [tasks])
        options = {"inner_steps": inner_steps}
        if "support_weight" in self.specs[name]:
            if support_weight is None:
                support_weight = np.ones([tasks, examples])
            options["support_weight"] = support_weight
        elif support_weight is not None:
            raise ValueError(
                "`support_weight` needs a model whose inner loss has a value "
                "for each example. "
                f"Received: support_weight={support_weight!r}"
            )
        return self._run(name, {**support, **self._checked(name, options)})

    def predict(
        self,
        query_x: ArrayLike | list | dict[str, Any],
        weights: Mapping[str, ArrayLike],
    ) -> np.ndarray | dict[str, np.ndarray]:
        """Predicts queries with the weights that `adapt` returned.

        Args:
            query_x: array of shape `(T, Q, *input_shape)`.
            weights: dict from names to arrays `(T, ...)`.

        Returns:
            The predictions, `(T, Q, ...)`. A dict of them if the learner has
            several outputs.

        Raises:
            ValueError: if an argument does not have this form.
        """
        query = self._checked("predict", {"query_x": query_x})
        expected = set(self.specs["predict"]) - set(query)
        given = set(weights) if isinstance(weights, Mapping) else weights
        if given != expected:
            raise ValueError(
                "`weights` must be a dict with the keys that `adapt` returns, "
                f"{sorted(expected)}. Received: weights="
                f"{sorted(given) if isinstance(given, set) else given!r}"
            )
        return _predictions(
            self._run("predict", {**query, **self._checked("predict", weights)})
        )

    def adapt_and_predict(
        self,
        support_x: ArrayLike | list | dict[str, Any],
        support_y: ArrayLike | list | dict[str, Any],
        query_x: ArrayLike | list | dict[str, Any],
    ) -> np.ndarray | dict[str, np.ndarray]:
        """Learns tasks and predicts their queries, and keeps no weights.

        Args:
            support_x: as in `adapt`.
            support_y: as in `adapt`.
            query_x: as in `predict`.

        Returns:
            As `predict`.

        Raises:
            ValueError: as `adapt` and `predict`.
        """
        values = {
            "support_x": support_x,
            "support_y": support_y,
            "query_x": query_x,
        }
        name = "adapt_and_predict"
        return _predictions(self._run(name, self._checked(name, values)))

    def _checked(self, signature, values):
        """Returns arrays by the names of a signature's inputs."""
        arrays = {}
        specs = self.specs[signature]
        for argument, value in values.items():
            named = {argument: value}
            if argument not in specs:
                # Several inputs.
                named = {joined(argument, p): v for p, v in paths(value)}
                names = {n for n in specs if n.startswith(f"{argument}_")}
                if set(named) != names:
                    raise ValueError(
                        f"`{argument}` must hold an array for each of "
                        f"{sorted(names)}. Received: {argument} with "
                        f"{sorted(named)}"
                    )
            for name, part in named.items():
                arrays[name] = _checked_array(name, part, specs[name])
                self._check_size(name, arrays[name])
        return arrays

    def _check_size(self, name, array):
        if name.startswith(("support_", "query_")):
            if array.shape[1] > self.max_examples:
                raise ValueError(
                    f"`{name}` must have at most {self.max_examples} examples "
                    "of a task. Predict many queries in several calls, or pass "
                    "a larger `max_examples` to `AdaptiveModel`. "
                    f"Received: {name} of shape {array.shape}"
                )

    def _run(self, signature, arrays):
        tensors = {name: tf.constant(array) for name, array in arrays.items()}
        try:
            outputs = self._saved_model.signatures[signature](**tensors)
        except tf.errors.InvalidArgumentError as error:
            raise ValueError(_sentence(error)) from None
        return {name: tensor.numpy() for name, tensor in outputs.items()}


def _load(path):
    """Returns a SavedModel that has the functions of `SIGNATURES`."""
    folder = path
    if not tf.saved_model.contains_saved_model(folder):
        versions = [
            entry
            for entry in (os.listdir(path) if os.path.isdir(path) else ())
            if entry.isascii()
            and entry.isdigit()
            and tf.saved_model.contains_saved_model(os.path.join(path, entry))
        ]
        if not versions:
            raise ValueError(
                "`path` must be the folder of a SavedModel, such as "
                "`MetaModel.export` writes, or a folder of such folders whose "
                f"names are numbers. Received: path={path!r}"
            )
        folder = os.path.join(path, max(versions, key=int))
    try:
        saved_model = tf.saved_model.load(folder)
    except Exception as error:
        raise ValueError(
            "TensorFlow cannot load the SavedModel. Export the model again. "
            f"Received: path={path!r}, which failed with: {error}"
        ) from error
    signatures = saved_model.signatures
    missing = [name for name in SIGNATURES if name not in signatures]
    if missing:
        raise ValueError(
            f"The SavedModel has no signatures {missing}. Another program may "
            "have written it, or an earlier version of this library. Call "
            "`MetaModel.export` again. "
            f"Received: path={path!r} with the signatures {sorted(signatures)}"
        )
    return saved_model


def _checked_array(name, value, spec):
    """Returns an array of the dtype of a spec, if it fits the spec."""
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(
            f"`{name}` must be an array: all tasks need the same number of "
            f"examples. Received: {name}, of which NumPy says: {error}"
        ) from error
    dtype = spec.dtype.as_numpy_dtype
    fits = np.can_cast(array.dtype, dtype, "same_kind")
    if array.dtype.kind in "iu" and (fits or spec.dtype.is_integer):
        # Else a number would become another one.
        fits = np.array_equal(array.astype(dtype), array)
    if not fits:
        raise ValueError(
            f"`{name}` must hold numbers of dtype {spec.dtype.name}. "
            f"Received: {name} of dtype {array.dtype}"
        )
    if not spec.shape.is_compatible_with(array.shape) or 0 in array.shape[:2]:
        raise ValueError(
            f"`{name}` must have the shape {tuple(spec.shape)}, where None is "
            "any number from 1. The first axis is of tasks. "
            f"Received: {name} of shape {array.shape}"
        )
    return array.astype(dtype)


def _predictions(outputs):
    return outputs["predictions"] if "predictions" in outputs else outputs


def _sentence(error):
    """Returns the sentence of a check in a graph, without the graph."""
    message = error.message or ""
    found = re.search(r"assertion failed: \[(.*?)\]\n", message, re.DOTALL)
    if not found:
        return message
    return found.group(1).replace("] [", " ")
