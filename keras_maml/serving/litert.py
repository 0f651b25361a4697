"""LiteRT files, which adapt to a support set on a device."""

import pathlib
import re
import tempfile
from os import PathLike
from typing import Any

import keras
import tensorflow as tf

from keras_maml import keras_internals
from keras_maml.engine import contract
from keras_maml.engine import targets
from keras_maml.engine.contract import KEYS
from keras_maml.engine.stateless_learner import StatelessLearner
from keras_maml.exact import built_in
from keras_maml.serving.endpoints import named
from keras_maml.serving.endpoints import predictions
from keras_maml.validation import check_choice
from keras_maml.validation import check_integer

_WEIGHT = "support_weight"

# How the converter names the operation, and the place in the graph, of an
# error.
_ERROR = re.compile(r'error: loc\(.*?fused\["(\w+):", "([^"@]*)')


def export(
    meta_model: keras.Model,
    filepath: str | PathLike[str],
    signature: dict[str, Any] | None,
    verbose: bool | None = None,
    *,
    format: str,
    weight_type: str = "float32",
    n_way: int | None = None,
    **options: Any,
) -> None:
    """Writes `meta_model` as a LiteRT file, see `MetaModel.export`."""
    del format
    litert_file = _litert_file()
    check_choice("weight_type", weight_type, litert_file.WEIGHT_TYPES)
    if options:
        received = (f"{name}={value!r}" for name, value in options.items())
        raise ValueError(
            'With `format="litert"`, the only further arguments are '
            f"`weight_type` and `n_way`. Received: {', '.join(received)}"
        )
    if pathlib.Path(filepath).suffix != ".tflite":
        raise ValueError(
            'With `format="litert"`, `filepath` must end with ".tflite". '
            f"Received: filepath={str(filepath)!r}"
        )
    _check_n_way(meta_model, n_way)
    specs = _specs(signature)
    if not meta_model.built:
        shapes = tf.nest.map_structure(
            lambda spec: tuple(spec.shape), specs["query_x"]
        )
        meta_model.build({"query_x": shapes})
    with built_in.required():
        signatures = _signatures(meta_model, specs, n_way)
        content = _converted(meta_model, signatures)
    content = litert_file.finished(content, weight_type)
    litert_file.check_runs(content)
    pathlib.Path(filepath).write_bytes(content)
    if verbose is not False:
        keras_internals.print_message(f"Saved artifact at '{filepath}'.")


def _litert_file():
    try:
        from keras_maml.serving import litert_file
    except ImportError as error:
        raise ImportError(
            '`format="litert"` needs the package ai-edge-litert. Run '
            '`pip install "keras-maml[litert]"`. '
            'Received: format="litert"'
        ) from error
    return litert_file


def _check_n_way(meta_model, n_way):
    if n_way is not None:
        check_integer("n_way", n_way)
    if (n_way is None) != (meta_model.head_init is None):
        raise ValueError(
            "A LiteRT file has fixed sizes. With "
            '`head_init="prototypes"`, pass `n_way`, the largest number of '
            "classes of a task, and otherwise pass none. "
            f"Received: n_way={n_way}, head_init={meta_model.head_init!r}"
        )


def _specs(signature):
    """Returns named specs of one task of a known size, with an axis of 1."""
    keys = set(signature) if isinstance(signature, dict) else set()
    if keys - {_WEIGHT} != set(KEYS):
        raise ValueError(
            'With `format="litert"`, `input_signature` must be a dict with '
            f'the keys {KEYS}, and optionally "{_WEIGHT}". '
            f"Received: input_signature={signature!r}"
        )
    specs = {key: _with_one_task(spec) for key, spec in signature.items()}
    shapes = [spec.shape for spec in tf.nest.flatten(specs)]
    if not all(s.is_fully_defined() and s[0] == 1 for s in shapes):
        raise ValueError(
            "A LiteRT file has fixed sizes, and adapts to one task. Pass an "
            "`input_signature` with the number of examples, such as "
            "tf.TensorSpec((1, 5, 28, 28, 1)). "
            f"Received: input_signature of shapes {list(map(str, shapes))}"
        )
    specs = {key: named(spec, key) for key, spec in specs.items()}
    # Sizes that differ would be a loss of values that are repeated.
    check = tf.function(contract.check_inputs, autograph=False)
    check.get_concrete_function(specs)
    return specs


def _with_one_task(spec):
    def one(leaf):
        shape = list(leaf.shape)
        return tf.TensorSpec([shape[0] or 1, *shape[1:]], leaf.dtype)

    if hasattr(spec, "shape"):
        return one(spec)
    return tf.nest.map_structure(one, spec)


def _signatures(meta_model, specs, n_way):
    """Returns the traced functions of the file, by name."""
    steps = meta_model.evaluation_steps
    steps = meta_model.inner_steps if steps is None else steps
    learner = StatelessLearner(meta_model, specs, n_way, steps)
    query = specs["query_x"]
    support = {key: specs[key] for key in specs if key != "query_x"}
    weights = {
        name: tf.TensorSpec((1, *spec.shape), spec.dtype, name)
        for name, spec in learner.specs.items()
    }

    def adapt(x):
        x, _ = targets.checked(meta_model, x)
        if n_way is not None:
            labels = targets.looked_up(x["support_y"], n_way)
            x = {**x, "support_y": labels}
        return _with_tasks(learner.adapt(_only(x)))

    def predict(query_x, weights):
        outputs = learner.predict(_only(query_x), _only(weights))
        return predictions(_with_tasks(outputs))

    # Traced once. The converter puts them into their caller.
    adapt = tf.function(adapt, autograph=False)
    adapt = adapt.get_concrete_function(support)
    predict = tf.function(predict, autograph=False)
    predict = predict.get_concrete_function(query, weights)

    def adapt_and_predict(x, query_x):
        return predict(query_x, adapt(x))

    both = tf.function(adapt_and_predict, autograph=False)
    return {
        "adapt": adapt,
        "predict": predict,
        "adapt_and_predict": both.get_concrete_function(support, query),
    }


def _only(structure):
    return tf.nest.map_structure(lambda t: tf.squeeze(t, 0), structure)


def _with_tasks(structure):
    return tf.nest.map_structure(lambda t: tf.expand_dims(t, 0), structure)


def _converted(meta_model, signatures):
    """Returns the bytes of a file with these signatures.

    Raises:
        ValueError: if an operation is none of LiteRT's.
    """
    module = tf.Module()
    module.model_variables = [v.value for v in meta_model.variables]
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(
            module,
            folder,
            signatures,
            # LiteRT derives nothing.
            tf.saved_model.SaveOptions(experimental_custom_gradients=False),
        )
        converter = tf.lite.TFLiteConverter.from_saved_model(
            folder, signature_keys=list(signatures)
        )
        try:
            return converter.convert()
        except Exception as error:
            places = _ERROR.findall(str(error))
            if not places:
                raise
            raise ValueError(
                "LiteRT has no operation for a part of the learner, or of its "
                "adaptation. Leave the layer out, or adapt only what comes "
                'after it, as with `adapted_weights="head"`. '
                f"Received: {_received(places, meta_model.learner)}"
            ) from error


def _received(places, learner):
    """Returns the first operations that failed, with the names of layers."""
    names = {
        layer.name
        for layer in keras_internals.all_layers(learner, include_self=False)
    }
    found = {}
    for operation, place in places:
        found.setdefault(_layer(place, names), []).append(operation)
    return "; ".join(
        f"{layer or 'no layer'} with {', '.join(sorted(set(operations)))}"
        for layer, operations in found.items()
    )


def _layer(place, names):
    """Returns the layer in which an operation is, or `None`."""
    for part in reversed(place.split("/")):
        # TensorFlow adds a number to a name that it has seen.
        for name in (re.sub(r"_\d+$", "", part), part):
            if name in names:
                return f"layer {name!r}"
    return None
