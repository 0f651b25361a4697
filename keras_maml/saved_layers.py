"""How a file names layers of a learner, so that each process finds them."""

import collections
from collections.abc import Iterator
from typing import Any

import keras

from keras_maml import keras_internals
from keras_maml.settings import deserialized


def get_config(
    learner: keras.Model, layers: list[keras.Layer], learner_config: Any
) -> list[str | dict[str, Any]]:
    """Returns what a file says in the place of layers of one name.

    Keras makes up names by counting the layers of a process. A `Sequential` or
    functional model keeps the names of its layers in its config, so they come
    back. Layers that other models and layers make for themselves get other
    names in another process. Of these, a file has the path: the position in
    the model, then the position in this layer, and so on.

    Args:
        learner: a Keras model.
        layers: list of layers of the learner with the same name.
        learner_config: the learner, serialised by Keras.

    Returns:
        A list of the name, or of a dict for each layer.
    """
    all_layers = keras_internals.all_layers(learner, include_self=False)
    name = layers[0].name
    namesakes = sum(layer.name == name for layer in all_layers)
    if len(layers) == namesakes == kept_names(learner_config)[name]:
        return [name]
    paths = {id(layer): path for path, layer in _paths(learner)}
    return [
        {"path": paths[id(layer)], "class_name": type(layer).__name__}
        for layer in layers
    ]


def find(learner: keras.Model, config: dict[str, Any]) -> keras.Layer | None:
    """Returns the layer of a dict from `get_config`.

    Args:
        learner: a Keras model.
        config: the dict.

    Returns:
        A layer, or `None` if the learner does not have it, or not yet.
    """
    if set(config) != {"path", "class_name"}:
        return None
    layer: Any = learner
    for position in config["path"]:
        children = _children(layer)
        if not 0 <= position < len(children):
            return None
        layer = children[position]
    return layer if type(layer).__name__ == config["class_name"] else None


def read_config(
    config: dict[str, Any],
    learner_key: str,
    custom_objects: dict[str, Any] | None,
) -> tuple[dict[str, Any], str | None]:
    """Deserialises a saved config.

    Args:
        config: dict, from `get_config` of a model of this or an earlier
            version.
        learner_key: string, the key of the learner.
        custom_objects: dict, from names to classes or functions.

    Returns:
        A tuple of the arguments of the model, and of its "selection", which
        is no argument.

    Raises:
        ValueError: if the file does not say which layers adapt.
    """
    # Before Keras takes the names out of the config.
    kept = kept_names(config[learner_key])
    config = deserialized(config, custom_objects)
    selection = config.pop("selection", None)
    if "adapt" in config:  # Saved by 0.1.
        config["adapted_weights"] = config.pop("adapt")
    adapted_weights = config.get("adapted_weights")
    if isinstance(adapted_weights, (list, tuple)):
        for name in adapted_weights:
            if isinstance(name, str) and not kept[name]:
                _refuse_made_up_name(config[learner_key], name)
    return config, selection


def kept_names(learner_config: Any) -> collections.Counter[str]:
    """Returns how often the config of a learner holds the name of a layer."""
    return collections.Counter(_names(learner_config))


def _names(config: Any) -> Iterator[str]:
    if isinstance(config, dict):
        inner = config.get("config")
        if "class_name" in config and isinstance(inner, dict):
            if isinstance(inner.get("name"), str):
                yield inner["name"]
        for value in config.values():
            yield from _names(value)
    elif isinstance(config, (list, tuple)):
        for value in config:
            yield from _names(value)


def _paths(
    layer: keras.Layer, path: tuple[int, ...] = ()
) -> Iterator[tuple[list[int], keras.Layer]]:
    """Yields the layers inside of a layer at any depth, with their paths."""
    for position, child in enumerate(_children(layer)):
        yield [*path, position], child
        yield from _paths(child, (*path, position))


def _children(layer: keras.Layer) -> list[keras.Layer]:
    # A `Sequential` model gets an input when it is built.
    return [
        child
        for child in keras_internals.child_layers(layer)
        if not isinstance(child, keras.layers.InputLayer)
    ]


def _refuse_made_up_name(learner: keras.Model, name: str) -> None:
    """Refuses a name that may have stood for another layer in a file.

    Files of earlier versions have such names.
    """
    made_up = {
        _without_number(type(layer).__name__)
        for layer in keras_internals.all_layers(learner, include_self=False)
    }
    if _without_number(name) in made_up:
        raise ValueError(
            "The file names a layer in `adapted_weights` by a name that Keras "
            "made up in another process, where it may have stood for another "
            "layer. Make the `MetaModel` in code, with the layer in "
            "`adapted_weights`, call its `load_weights` with this file, and "
            f"save it again. Received: adapted_weights with {name!r}"
        )


def _without_number(name: str) -> str:
    """Makes `"conv2d_1"` and `"Conv2D"` the same."""
    return name.replace("_", "").rstrip("0123456789").lower()
