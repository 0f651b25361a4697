"""SavedModels that adapt to a support set without this library."""

from os import PathLike
from typing import Any

import keras
import tensorflow as tf

from keras_maml.engine.contract import KEYS
from keras_maml.engine.inner_loss import UnweighableLossError
from keras_maml.serving.endpoints import Endpoints
from keras_maml.serving.endpoints import named


def export(
    meta_model: keras.Model,
    filepath: str | PathLike[str],
    signature: dict[str, Any] | None,
    verbose: bool | None = None,
    **options: Any,
) -> None:
    """Writes `meta_model` as a SavedModel, see `MetaModel.export`."""
    if options != {"format": "tf_saved_model"}:
        received = (f"{name}={value!r}" for name, value in options.items())
        raise ValueError(
            '`format` must be "tf_saved_model" or "litert", and the former '
            f"takes no further arguments. Received: {', '.join(received)}"
        )
    if signature is None:
        raise ValueError(
            "The model does not know the shapes and dtypes of its inputs yet. "
            "Call `fit`, `evaluate` or `predict` first, or pass "
            "`input_signature`. Received: input_signature=None"
        )
    if not isinstance(signature, dict) or set(signature) != set(KEYS):
        raise ValueError(
            f"`input_signature` must be a dict with the keys {KEYS}. "
            f"Received: input_signature={signature!r}"
        )
    # Named arguments give the tensors of the signatures their names. A dict
    # would give `args_0`, ...
    specs = {key: named(signature[key], key) for key in KEYS}

    endpoints = Endpoints(meta_model, specs)
    *support, query = specs.values()
    archive = keras.export.ExportArchive()
    archive.track(meta_model)
    # The first one is `serving_default`.
    for function, inputs in (
        (endpoints.serve, [*support, query]),
        (endpoints.adapt, support),
        (endpoints.predict, [query, endpoints.weight_specs]),
        (endpoints.adapt_and_predict, [*support, query]),
    ):
        name = function.__name__
        archive.add_endpoint(name, _traced(function, inputs), inputs)
    archive.add_endpoint(
        "adapt_with_options", *_with_options(endpoints, support)
    )
    archive.write_out(filepath, verbose=verbose)


def _with_options(endpoints, support):
    """Returns a function and its inputs, without weights for some losses."""
    weight, steps = endpoints.option_specs
    try:
        inputs = [*support, weight, steps]
        return _traced(endpoints.adapt_with_options, inputs), inputs
    except UnweighableLossError:
        inputs = [*support, steps]
        return _traced(endpoints.adapt_with_steps, inputs), inputs


def _traced(function, specs):
    """Returns a function that calls what is traced here.

    TensorFlow traces an endpoint twice, which then takes no time.
    """
    traced = tf.function(function, autograph=False)
    concrete = traced.get_concrete_function(*specs)
    return lambda *arguments: concrete(*arguments)
