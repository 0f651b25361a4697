"""The `adapted_weights` axis: which weights move in the inner loop."""

import keras

from keras_maml import keras_internals
from keras_maml.context import ContextParameters

# The forms of the axis that have a name.
NAMES = ("all", "head", "body", "context", "lora")


def get(adapted_weights):
    """The answer behind its config, or itself.

    Raises:
        ValueError: if it is none of the forms of the axis.
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
            isinstance(e, (str, keras.layers.Layer)) for e in adapted_weights
        ):
            return adapted_weights
    raise ValueError(
        f"`adapted_weights` must be one of {NAMES}, a non-empty list of "
        "layers or layer names, or a function that takes a variable and "
        "returns a bool. "
        f"Received: adapted_weights={adapted_weights!r}"
    )


def adapted_positions(learner, adapted_weights):
    """Positions of the adapted ones among `learner.trainable_variables`.

    Args:
        learner: a built Keras model.
        adapted_weights: one of `NAMES`, a list of layers or layer names, or a
            predicate.

    Returns:
        A list of ints, in order.

    Raises:
        ValueError: if a layer is not in the learner, or no trainable weight
            is selected.
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
        chosen = set()
        for entry in adapted_weights:
            for layer in _find(learner, entry):
                chosen.update(id(v) for v in layer.trainable_variables)
        selected = [i for i, v in enumerate(variables) if id(v) in chosen]
    if not selected:
        raise ValueError(
            "`adapted_weights` selects none of the learner's trainable weights "
            f"({[v.path for v in variables]}). "
            f"Received: adapted_weights={adapted_weights!r}"
        )
    return selected


def context_positions(learner):
    """Positions of context parameters among the trainable variables."""
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
    """The last layer with trainable weights, of the last nested model."""
    with_weights = [
        layer for layer in model.layers if layer.trainable_variables
    ]
    if not with_weights:
        raise ValueError(
            "The head is the last layer with trainable weights, and there is "
            f"none. Received: learner={model!r}"
        )
    last = with_weights[-1]
    return _head(last) if isinstance(last, keras.Model) else last


def _find(learner, entry):
    layers = keras_internals.all_layers(learner, include_self=False)
    if isinstance(entry, str):
        found = [layer for layer in layers if layer.name == entry]
    else:
        found = [layer for layer in layers if layer is entry]
    if not found:
        raise ValueError(
            "`adapted_weights` names a layer that the learner does not have. "
            f"Its layers are {[layer.name for layer in layers]}. "
            f"Received: {entry if isinstance(entry, str) else entry.name!r}"
        )
    if found[0] is entry and sum(e.name == entry.name for e in layers) > 1:
        # Saved by its name, it would come back as all of them.
        raise ValueError(
            "`adapted_weights` needs layers whose names are unique in the "
            "learner. Rename them, or pass a function of `variable.path`. "
            f"Received: layer {entry.name!r}"
        )
    return found
