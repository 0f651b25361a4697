"""Objects with a config, and the names that stand for them."""

from collections.abc import Mapping
from typing import Any
from typing import Self
from typing import TypeVar

import keras

_BaseClass = TypeVar("_BaseClass")


class Settings:
    """Base class of objects with a config.

    Subclasses keep the arguments of their constructor as attributes, and
    return them from `get_config`.
    """

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor, serialised by Keras."""
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Makes an object from the config that `get_config` returned."""
        return cls(**deserialized(config))


def deserialized(
    config: Mapping[str, Any],
    custom_objects: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Deserialises the objects in a config.

    Args:
        config: dict. Only values that are dicts are deserialised. A string
            stays a string, even if an object has this name.
        custom_objects: dict, from names to classes or functions.

    Returns:
        A dict with the same keys.
    """
    return {
        key: keras.saving.deserialize_keras_object(
            value, custom_objects=custom_objects
        )
        if isinstance(value, dict)
        else value
        for key, value in config.items()
    }


def resolve(
    argument: str,
    identifier: Any,
    base_class: type[_BaseClass],
    names: Mapping[str, type[_BaseClass]],
    hint: str = "",
) -> _BaseClass:
    """Returns the object of a name or config, or the object itself.

    Args:
        argument: string, the name of the argument, for the error.
        identifier: a name, a config or an object; any other value raises.
        base_class: the base class of the objects.
        names: dict, from names to classes.
        hint: string, one more sentence for the error.

    Raises:
        ValueError: if `identifier` has none of these forms.
    """
    answer = identifier
    if isinstance(identifier, str) and identifier in names:
        answer = names[identifier]()
    elif isinstance(identifier, dict):
        try:
            answer = keras.saving.deserialize_keras_object(identifier)
        except (TypeError, ValueError) as error:
            hint += f" The config cannot be read: {error}"
    if isinstance(answer, base_class):
        return answer
    module = ".".join(base_class.__module__.split(".")[:2])
    raise ValueError(
        f"`{argument}` must be one of {sorted(names)}, an object of "
        f"`{module}`, or the config of such an object.{hint} "
        f"Received: {argument}={identifier!r}"
    )
