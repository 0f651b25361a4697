"""By what one knows a learner again, in another process."""

import json
import zlib
from typing import Any

import keras

from keras_maml.keras_internals import all_layers


def learner_facts(learner: keras.Model) -> list[list[Any]]:
    """Returns what a learner is, in the form of JSON.

    Args:
        learner: a built model.

    Returns:
        A list for each layer at any depth, and for the model itself: the type,
        the shapes of the weights, and a checksum of the config and of weights
        that do not train. Names do not count, because Keras numbers layers and
        operations anew for each learner. Nor do weights that train: they may
        be random. Of a layer that Keras cannot save, only weights are in the
        checksum.
    """
    layers = all_layers(learner)
    numbers: dict[str, int] = {}
    for layer in layers:
        for named in (layer, *getattr(layer, "operations", ())):
            numbers.setdefault(named.name, len(numbers))
    return [
        [
            type(layer).__name__,
            *(list(v.shape) for v in layer.weights),
            _checksum(layer, numbers),
        ]
        for layer in layers
    ]


def _checksum(layer, numbers):
    value = 0
    for variable in layer.non_trainable_weights:
        array = keras.ops.convert_to_numpy(variable)
        value = zlib.crc32(array.tobytes(), value)
    try:
        config = keras.saving.serialize_keras_object(layer.get_config())
        text = json.dumps(_numbered(config, numbers), sort_keys=True)
    except (NotImplementedError, TypeError):
        # Keras cannot save an own layer whose arguments it does not know, or
        # a config with values that JSON does not have.
        return value
    return zlib.crc32(text.encode(), value)


def _numbered(value, numbers, may_be_name=False):
    """Returns a config with numbers for the names of layers and operations.

    They are under the key "name", or in lists, which say what is joined.
    """
    if isinstance(value, dict):
        return {k: _numbered(v, numbers, k == "name") for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_numbered(v, numbers, may_be_name=True) for v in value]
    if may_be_name and isinstance(value, str):
        return numbers.get(value, value)
    return value
