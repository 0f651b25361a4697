"""Objects that their constructor's arguments describe."""

from collections.abc import Mapping
from typing import Any

import keras


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
