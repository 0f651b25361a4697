"""Objects that their constructor's arguments describe, and how to name one."""

from collections.abc import Mapping
from typing import Any
from typing import TypeVar

import keras

_Kind = TypeVar("_Kind")


class Settings:
    """Base class of objects that their constructor's arguments describe.

    Subclasses keep their arguments as attributes and return them from
    `get_config`.
    """

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, as Keras serialises them."""
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """Makes an object from what `get_config` returned."""
        return cls(**deserialized(config))


def deserialized(
    config: Mapping[str, Any],
    custom_objects: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A config whose serialised objects are objects again.

    Args:
        config: dict. Only dicts among its values are deserialised: a text is
            a text, and not the name of an object.
        custom_objects: dict, from names to classes or functions.
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
    kind: type[_Kind],
    names: Mapping[str, type[_Kind]],
    hint: str = "",
) -> _Kind:
    """The object behind a name, a config or the object itself.

    Args:
        argument: string, the name of the argument, for the error.
        identifier: what the user passed.
        kind: the base class of the objects.
        names: dict, from a name to the class that it stands for.
        hint: string, one more sentence for the error.

    Raises:
        ValueError: if `identifier` is none of these.
    """
    found = identifier
    if isinstance(identifier, str) and identifier in names:
        found = names[identifier]()
    elif isinstance(identifier, dict):
        try:
            found = keras.saving.deserialize_keras_object(identifier)
        except (TypeError, ValueError) as error:
            hint += f" The config cannot be read: {error}"
    if isinstance(found, kind):
        return found
    module = ".".join(kind.__module__.split(".")[:2])
    raise ValueError(
        f"`{argument}` must be one of {sorted(names)}, an object of "
        f"`{module}` or the config of one.{hint} "
        f"Received: {argument}={identifier!r}"
    )
