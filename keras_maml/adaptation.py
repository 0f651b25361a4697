"""The `adapt` axis: which weights move in the inner loop."""

import keras


def check(adapt):
    """Raises `ValueError` unless `adapt` is one of the forms of the axis."""
    if adapt is None or (callable(adapt) and not isinstance(adapt, type)):
        if not isinstance(adapt, keras.layers.Layer):
            return
    if isinstance(adapt, (list, tuple)) and adapt:
        if all(isinstance(e, (str, keras.layers.Layer)) for e in adapt):
            return
    raise ValueError(
        "`adapt` must be `None` (every trainable weight), a non-empty list of "
        "layers or layer names, or a function that takes a variable and "
        f"returns a bool. Received: adapt={adapt!r}"
    )


def adapted_positions(learner, adapt):
    """Positions of the adapted ones among `learner.trainable_variables`.

    Args:
        learner: a built Keras model.
        adapt: `None`, a list of layers or layer names, or a predicate.

    Returns:
        A list of ints, in order.

    Raises:
        ValueError: if a layer is not in the learner, or no trainable weight
            is selected.
    """
    variables = learner.trainable_variables
    if adapt is None:
        selected = list(range(len(variables)))
    elif callable(adapt):
        selected = [i for i, v in enumerate(variables) if adapt(v)]
    else:
        chosen = set()
        for entry in adapt:
            for layer in _find(learner, entry):
                chosen.update(id(v) for v in layer.trainable_variables)
        selected = [i for i, v in enumerate(variables) if id(v) in chosen]
    if not selected:
        raise ValueError(
            "`adapt` selects none of the learner's trainable weights "
            f"({[v.path for v in variables]}). Received: adapt={adapt!r}"
        )
    return selected


def _find(learner, entry):
    layers = list(learner._flatten_layers(include_self=False))
    if isinstance(entry, str):
        found = [layer for layer in layers if layer.name == entry]
    else:
        found = [layer for layer in layers if layer is entry]
    if not found:
        raise ValueError(
            "`adapt` names a layer that the learner does not have. Its layers "
            f"are {[layer.name for layer in layers]}. "
            f"Received: {entry if isinstance(entry, str) else entry.name!r}"
        )
    if found[0] is entry and sum(e.name == entry.name for e in layers) > 1:
        # Saved by its name, it would come back as all of them.
        raise ValueError(
            "`adapt` needs layers whose names are unique in the learner. "
            "Rename them, or pass a function of `variable.path`. "
            f"Received: layer {entry.name!r}"
        )
    return found
