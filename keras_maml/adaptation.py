"""The `adapted_weights` axis: which weights move in the inner loop."""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any
from typing import TypeAlias

import keras

from keras_maml import keras_internals
from keras_maml import saved_layers
from keras_maml import saving
from keras_maml.context import ContextParameters

VariableFilter: TypeAlias = Callable[[keras.Variable], bool]
AdaptedWeights: TypeAlias = (
    str
    | Sequence[str | keras.Layer | dict[str, Any]]
    | VariableFilter
    | dict[str, Any]
)

NAMES = ("all", "head", "body", "context", "lora")


def get(adapted_weights: AdaptedWeights) -> AdaptedWeights:
    """Checks a value of the axis, and turns a config into a function.

    Args:
        adapted_weights: one of `NAMES`, a list of layers, layer names or
            dicts from `saved_layers.get_config`, a function that takes a
            variable and returns a bool, or the config of such a function.

    Returns:
        `adapted_weights`, or the function of the config.

    Raises:
        ValueError: if `adapted_weights` has none of these forms.
    """
    if isinstance(adapted_weights, dict):
        adapted_weights = keras.saving.deserialize_keras_object(adapted_weights)
    if isinstance(adapted_weights, str) and adapted_weights in NAMES:
        return adapted_weights
    if callable(adapted_weights) and not isinstance(
        adapted_weights, (type, keras.layers.Layer)
    ):
        return adapted_weights
    if isinstance(adapted_weights, (list, tuple)) and adapted_weights:
        if all(
            isinstance(layer, (str, keras.layers.Layer, dict))
            for layer in adapted_weights
        ):
            return adapted_weights
    raise ValueError(
        f"`adapted_weights` must be one of {NAMES}, a non-empty list of "
        "layers or layer names, or a function that takes a variable and "
        "returns a bool. "
        f"Received: adapted_weights={adapted_weights!r}"
    )


def adapted_positions(
    learner: keras.Model, adapted_weights: AdaptedWeights
) -> list[int]:
    """Returns the positions of adapted weights in `trainable_variables`.

    Args:
        learner: a built Keras model.
        adapted_weights: one of `NAMES`, a list of layers or layer names, or a
            function that takes a variable and returns a bool.

    Returns:
        A list of ints in ascending order.

    Raises:
        ValueError: if a layer is not in the learner, or if
            `adapted_weights` selects no trainable weight.
    """
    variables = learner.trainable_variables
    if adapted_weights == "all":
        selected = list(range(len(variables)))
    elif callable(adapted_weights):
        selected = [i for i, v in enumerate(variables) if adapted_weights(v)]
    elif adapted_weights == "lora":
        selected = [
            i for i, v in enumerate(variables) if keras_internals.is_lora(v)
        ]
    elif adapted_weights == "context":
        selected = context_positions(learner)
    elif adapted_weights in ("head", "body"):
        head = set(map(id, _head(learner).trainable_variables))
        selected = [
            i
            for i, v in enumerate(variables)
            if (id(v) in head) == (adapted_weights == "head")
        ]
    else:
        chosen: set[int] = set()
        for layer_or_name in adapted_weights:
            for layer in _find_layers(learner, layer_or_name):
                chosen.update(map(id, layer.trainable_variables))
        selected = [i for i, v in enumerate(variables) if id(v) in chosen]
    if not selected:
        raise ValueError(
            "`adapted_weights` selects none of the learner's trainable weights "
            f"({[v.path for v in variables]}). "
            f"Received: adapted_weights={adapted_weights!r}"
        )
    return selected


def context_positions(learner: keras.Model) -> list[int]:
    """Returns the positions of context parameters, as `adapted_positions`."""
    context = {
        id(variable)
        for layer in keras_internals.all_layers(learner)
        if isinstance(layer, ContextParameters)
        for variable in layer.trainable_variables
    }
    return [
        i
        for i, variable in enumerate(learner.trainable_variables)
        if id(variable) in context
    ]


def _head(model):
    """Returns the last layer with trainable weights, also in nested models."""
    with_weights = [
        layer for layer in model.layers if layer.trainable_variables
    ]
    if not with_weights:
        raise ValueError(
            "The head is the last layer with trainable weights, but no layer "
            f"of the learner has any. Received: learner={model!r}"
        )
    last = with_weights[-1]
    return _head(last) if isinstance(last, keras.Model) else last


def get_config(
    adapted_weights: AdaptedWeights, learner: keras.Model, learner_config: Any
) -> Any:
    """Returns what a file says of `adapted_weights`.

    Args:
        adapted_weights: as in `adapted_positions`.
        learner: a Keras model.
        learner_config: the learner, serialised by Keras.

    Raises:
        ValueError: if a layer is not in the learner, or if Keras could not
            load a function.
    """
    if callable(adapted_weights):
        return saving.function_config("adapted_weights", adapted_weights)
    if isinstance(adapted_weights, str):
        return adapted_weights
    config: list[Any] = []
    for entry in adapted_weights:
        if learner.built or isinstance(entry, keras.Layer):
            config += saved_layers.get_config(
                learner, _find_layers(learner, entry), learner_config
            )
        else:
            config.append(entry)
    return config


def with_layers(
    adapted_weights: AdaptedWeights, learner: keras.Model
) -> AdaptedWeights:
    """Puts the layers of a built learner in the place of their dicts."""
    if not isinstance(adapted_weights, (list, tuple)):
        return adapted_weights
    return [
        _find_layers(learner, entry)[0] if isinstance(entry, dict) else entry
        for entry in adapted_weights
    ]


def _find_layers(learner, entry):
    """Returns the layers of an entry in the list `adapted_weights`."""
    layers = keras_internals.all_layers(learner, include_self=False)
    if isinstance(entry, str):
        matches = [layer for layer in layers if layer.name == entry]
    elif isinstance(entry, dict):
        layer = saved_layers.find(learner, entry)
        matches = [] if layer is None else [layer]
    else:
        matches = [layer for layer in layers if layer is entry]
    if not matches:
        name = getattr(entry, "name", entry)
        raise ValueError(
            "`adapted_weights` names a layer that the learner does not have. "
            f"Its layers are {[layer.name for layer in layers]}. "
            f"Received: adapted_weights with the layer {name!r}"
        )
    return matches
