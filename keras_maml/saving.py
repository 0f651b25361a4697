"""Refuses to save what Keras could not load."""

from os import PathLike
from typing import Any

import keras

from keras_maml import keras_internals


class SavedOrRefused:
    """A Keras model whose `save` raises before it has touched a file."""

    def save(
        self, filepath: str | PathLike[str], *args: Any, **kwargs: Any
    ) -> None:
        """Saves the model, see `keras.Model.save`.

        Args:
            filepath: path that ends in `.keras`.
            *args: as in `keras.Model.save`.
            **kwargs: as in `keras.Model.save`.

        Raises:
            ValueError: if Keras could not load the file.
        """
        if str(filepath).endswith((".h5", ".hdf5")):
            refuse_h5(filepath)
        # Keras empties an older file before it asks for the config.
        self.get_config()
        super().save(filepath, *args, **kwargs)  # type: ignore[misc]

    def get_config(self) -> dict[str, Any]:
        # `keras.saving.save_model` does not call `save`.
        if keras_internals.is_saving_h5():
            refuse_h5("a path that ends in .h5")
        return super().get_config()  # type: ignore[misc]


def refuse_h5(filepath: Any) -> None:
    """Raises `ValueError`: the old format does not keep the whole model."""
    raise ValueError(
        "Keras writes a model like this one to an `.h5` file, but cannot load "
        "it. Save to a path that ends in `.keras`. For the weights alone, call "
        "`save_weights` with a path that ends in `.weights.h5`. "
        f"Received: filepath={filepath!r}"
    )


def refuse_lora(learner: keras.Model) -> None:
    """Raises `ValueError` if the learner has LoRA weights."""
    variables = learner.trainable_variables
    lora = [v.path for v in variables if keras_internals.is_lora(v)]
    if lora:
        raise ValueError(
            "Keras merges LoRA weights into the kernels when it saves them, "
            "and loads zeros: the loaded model could not adapt. To keep the "
            "weights, use `get_weights` and `set_weights`, or call `export`. "
            f"Received: a learner with {lora}"
        )


def function_config(argument: str, function: Any) -> dict[str, Any]:
    """Returns the config of a function, from which Keras can load it.

    Args:
        argument: string, the name of the argument, for the error.
        function: a function, or an object that can be called.

    Raises:
        ValueError: if Keras does not know the function.
    """
    try:
        # Keras would warn of a lambda, and refuse to load it.
        if getattr(function, "__name__", None) == "<lambda>":
            raise TypeError("a lambda has no name")
        config = keras.saving.serialize_keras_object(function)
        keras.saving.deserialize_keras_object(config)
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"Keras could save the function in `{argument}`, but not load it. "
            "Define it with a name and the decorator "
            '`@keras.saving.register_keras_serializable(package="my_package")`'
            ", or call `save_weights` to save the weights alone. "
            f"Received: {argument}={function!r}"
        ) from error
    return config
