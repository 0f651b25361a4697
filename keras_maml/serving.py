"""SavedModels that adapt to a support set without this library."""

import keras
import tensorflow as tf

_INPUTS = ("support_x", "support_y", "query_x")


def signature(inputs, learner):
    """The serving signature that fits the inputs of a meta-batch.

    Args:
        inputs: dict of tensors, `x` of a meta-batch.
        learner: a built Keras model. Where its own input may have any length,
            so may what is served.

    Returns:
        A dict from `"support_x"`, `"support_y"` and `"query_x"` to
        a `keras.KerasTensor` with any number of tasks and examples, or to a
        nest of them if the learner has several inputs.
    """
    known = getattr(learner, "inputs", None) or []

    def spec(key, tensor):
        shape = list(tensor.shape[2:])
        if key != "support_y" and len(known) == 1:
            shape = list(known[0].shape[1:])
        return keras.KerasTensor((None, None, *shape), tensor.dtype.name)

    return {
        key: tf.nest.map_structure(lambda t, key=key: spec(key, t), inputs[key])
        for key in _INPUTS
    }


def export(meta_model, filepath, signature, verbose=None):
    """Writes `meta_model` as a SavedModel, see `MetaModel.export`."""
    if signature is None:
        raise ValueError(
            "The shapes and dtypes of the inputs are not known yet. Call "
            "`fit`, `evaluate` or `predict` first, or pass "
            "`input_signature`. Received: input_signature=None"
        )
    if not isinstance(signature, dict) or set(signature) != set(_INPUTS):
        raise ValueError(
            f"`input_signature` must be a dict with the keys {_INPUTS}. "
            f"Received: input_signature={signature!r}"
        )
    # Positional arguments with names of their own give the tensors of the
    # serving signature these names; one dict would give `args_0`, ...
    specs = [_named(signature[key], key) for key in _INPUTS]

    def serve(support_x, support_y, query_x):
        values = (support_x, support_y, query_x)
        return meta_model.call(dict(zip(_INPUTS, values)), training=False)

    archive = keras.export.ExportArchive()
    archive.track(meta_model)
    archive.add_endpoint("serve", serve, input_signature=specs)
    archive.write_out(filepath, verbose=verbose)


def _named(spec, name):
    if hasattr(spec, "shape"):
        return tf.TensorSpec(spec.shape, spec.dtype, name=name)
    paths = keras.tree.flatten_with_path(spec)
    named = [
        _named(leaf, "_".join([name, *map(str, path)])) for path, leaf in paths
    ]
    return tf.nest.pack_sequence_as(spec, named)
