"""SavedModels that adapt to a support set without this library."""

from os import PathLike
from typing import Any

import keras
import tensorflow as tf

from keras_maml.engine.contract import KEYS


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
    # Named arguments give the tensors of the serving signature their names. A
    # dict would give `args_0`, ...
    specs = [_named(signature[key], key) for key in KEYS]

    def serve(support_x, support_y, query_x):
        values = (support_x, support_y, query_x)
        return meta_model.call(dict(zip(KEYS, values)), training=False)

    archive = keras.export.ExportArchive()
    archive.track(meta_model)
    archive.add_endpoint("serve", serve, input_signature=specs)
    archive.write_out(filepath, verbose=verbose)


def _named(spec, name):
    if hasattr(spec, "shape"):
        return tf.TensorSpec(spec.shape, spec.dtype, name=name)
    paths = keras.tree.flatten_with_path(spec)
    named_specs = [
        _named(leaf, "_".join([name, *map(str, path)])) for path, leaf in paths
    ]
    return tf.nest.pack_sequence_as(spec, named_specs)
