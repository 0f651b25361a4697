"""By what one knows a learner again, in another process."""

import json
import zlib
from typing import Any

import keras

from keras_maml.keras_internals import all_layers


def learner_facts(learner: keras.Model) -> list[Any]:
    """Returns what a learner is, in the form of JSON.

    Args:
        learner: a built model.

    Returns:
        A list of the types of its layers with the shapes of their weights. Its
        last item is a checksum of all that Keras saves of the model, such as
        activations, strides and what is joined to what, or `None` of a model
        that Keras cannot save. Names do not count: Keras numbers layers anew
        for each learner.
    """
    return [
        *(
            [type(layer).__name__, *(list(v.shape) for v in layer.weights)]
            for layer in learner.layers
        ),
        _checksum(learner),
    ]


def _checksum(learner):
    numbers = {layer.name: i for i, layer in enumerate(all_layers(learner))}
    try:
        config = keras.saving.serialize_keras_object(learner.get_config())
        text = json.dumps(_numbered(config, numbers), sort_keys=True)
    except (NotImplementedError, TypeError):
        return None
    return zlib.crc32(text.encode())


def _numbered(value, numbers):
    """Returns a config with numbers for the names of layers."""
    if isinstance(value, dict):
        return {k: _numbered(v, numbers) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_numbered(v, numbers) for v in value]
    if isinstance(value, str):
        return numbers.get(value, value)
    return value
