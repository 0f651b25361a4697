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
            'Only `format="tf_saved_model"` can hold the inner loop, and it '
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
        archive.add_endpoint(function.__name__, _traced(function, inputs))
    options = _with_options(endpoints, support)
    archive.add_endpoint("adapt_with_options", options)
    archive.write_out(filepath, verbose=verbose)


def _with_options(endpoints, support):
    """Returns a traced function, without weights if the loss takes none."""
    weight, steps = endpoints.option_specs
    try:
        return _traced(endpoints.adapt_with_options, [*support, weight, steps])
    except UnweighableLossError:
        return _traced(endpoints.adapt_with_steps, [*support, steps])


def _traced(function, specs):
    """Returns a traced function. With a signature, it would be traced twice."""
    traced = tf.function(function, autograph=False)
    traced.get_concrete_function(*specs)
    return traced
