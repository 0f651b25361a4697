"""The endpoints of an exported model, which check what they get."""

import re

import keras
import tensorflow as tf

from keras_maml.engine import contract
from keras_maml.engine import run_time_checks
from keras_maml.engine import targets
from keras_maml.engine.stateless_learner import HEAD
from keras_maml.engine.stateless_learner import StatelessLearner

# The largest number of inner steps that a caller may ask for. More would keep
# a server busy for one caller.
MAX_STEPS = 1000

# The number of steps that stands for the model's own.
DEFAULT_STEPS = -1

_FINITE = (
    "All numbers must be finite. Look for NaN and infinite numbers in the "
    "argument that is named here. Received: a number that is not finite in"
)
_DIVERGED = (
    "The adapted weights are not finite, because the inner loop has diverged. "
    "Scale `support_x` and `support_y` as in training, or take fewer inner "
    "steps. Received: support sets that lead to a number that is not finite in"
)
_STEPS = (
    f"`inner_steps` must be a number from 0 to {MAX_STEPS}, or "
    f"{DEFAULT_STEPS} for the model's own number. Received: inner_steps"
)
_WEIGHT = (
    "`support_weight` must hold finite numbers of at least 0, and in each task "
    "one above 0. Received: support_weight with other numbers in task"
)
_TASKS = "{names} must have the same number of tasks (first axis), at least 1."
_EXAMPLES = (
    "{names} must have the same number of examples (second axis), at least 1."
)
_CLASSES = (
    "`head_kernel` and `head_bias` must have the same number of classes (last "
    "axis). Received: numbers of classes"
)


class Endpoints:
    """Functions of tensors that have a leading axis of tasks.

    Args:
        meta_model: a `MetaModel`.
        specs: dict from `"support_x"`, `"support_y"` and `"query_x"` to
            structures of `tf.TensorSpec` with names, as `named` returns them.

    Attributes:
        specs: see above.
        option_specs: list of the specs of `support_weight` and `inner_steps`.
        weight_specs: dict of the specs of the adapted weights, by name.
    """

    def __init__(self, meta_model, specs):
        self._model = meta_model
        self.specs = specs
        if not meta_model.built:
            query = tf.nest.map_structure(
                lambda spec: tuple(spec.shape), specs["query_x"]
            )
            meta_model.build({"query_x": query})
        self._learner = StatelessLearner(meta_model, specs)
        tasks, examples = tf.nest.flatten(specs["support_x"])[0].shape[:2]
        self.option_specs = [
            tf.TensorSpec((tasks, examples), tf.float32, "support_weight"),
            tf.TensorSpec((tasks,), tf.int32, "inner_steps"),
        ]
        self.weight_specs = {
            name: tf.TensorSpec((tasks, *spec.shape), spec.dtype, name)
            for name, spec in self._learner.specs.items()
        }

    def adapt(self, support_x, support_y):
        return self._adapt({"support_x": support_x, "support_y": support_y})

    def adapt_with_options(
        self, support_x, support_y, support_weight, inner_steps
    ):
        x = {
            "support_x": support_x,
            "support_y": support_y,
            "support_weight": support_weight,
        }
        return self._adapt(x, inner_steps)

    def adapt_with_steps(self, support_x, support_y, inner_steps):
        x = {"support_x": support_x, "support_y": support_y}
        return self._adapt(x, inner_steps)

    def predict(self, query_x, weights):
        query = _flat({"query_x": query_x}, self.specs)
        checks = [
            _same_lengths(_TASKS, {**query, **weights}, 0),
            _same_lengths(_EXAMPLES, query, 1),
            _finite({**query, **weights}),
        ]
        if HEAD[0] in weights:
            checks.append(_check_head(*(weights[name] for name in HEAD)))
        query_x, weights = run_time_checks.after(checks, (query_x, weights))
        return predictions(self._learner.predict_tasks(query_x, weights))

    def adapt_and_predict(self, support_x, support_y, query_x):
        query = _flat({"query_x": query_x}, self.specs)
        x = {"support_x": support_x, "support_y": support_y}
        x = self._checked(x, {}, query)
        checks = [_same_lengths(_EXAMPLES, query, 1), _finite(query)]
        query_x = run_time_checks.after(checks, query_x)
        results = self._learner.adapt_and_predict_tasks(x, query_x)
        check = _finite(results[0], _DIVERGED)
        return predictions(run_time_checks.after([check], results[1]))

    def serve(self, support_x, support_y, query_x):
        """Returns what `MetaModel.predict` does: NaN for a bad task."""
        values = (support_x, support_y, query_x)
        x = contract.check_inputs(dict(zip(contract.KEYS, values)))
        query_x = x.pop("query_x")
        x, _ = targets.checked(self._model, x)
        weights, outputs = self._learner.adapt_and_predict_tasks(x, query_x)
        finite = _are_finite([*tf.nest.flatten(x), *weights.values()])
        is_good = tf.reduce_all(finite, 0)
        return tf.nest.map_structure(lambda t: _nan_unless(is_good, t), outputs)

    def _adapt(self, x, steps=None):
        if steps is None:
            return self._adapted(self._checked(x, {}, {}), None)
        options = {"inner_steps": steps}
        x = self._checked(x, options, {}, [_check_steps(steps)])
        own = self._model.evaluation_steps
        own = self._model.inner_steps if own is None else own
        return self._adapted(x, tf.where(steps == DEFAULT_STEPS, own, steps))

    def _adapted(self, x, steps):
        weights = self._learner.adapt_tasks(x, steps)
        check = _finite(weights, _DIVERGED)
        return run_time_checks.after([check], weights)

    def _checked(self, x, options, query, checks=()):
        """Returns a support set, to be read after its checks.

        Args:
            x: dict of structures of tensors, the support set.
            options: dict of tensors that have only the axis of tasks.
            query: dict of tensors that have the same tasks.
            checks: list of further checks.
        """
        support = _flat(x, self.specs)
        checks = [
            *checks,
            _same_lengths(_TASKS, {**support, **options, **query}, 0),
            _same_lengths(_EXAMPLES, support, 1),
        ]
        if "support_weight" in x:
            checks.append(_check_weight(x["support_weight"]))
        x = run_time_checks.after(checks, x)
        # Rows of weight 0 are no longer what they were.
        x, _ = targets.checked(self._model, x)
        return run_time_checks.after([_finite(_flat(x, self.specs))], x)


def named(spec, name):
    """Returns a structure of specs, with names that begin with `name`."""
    if hasattr(spec, "shape"):
        return tf.TensorSpec(spec.shape, spec.dtype, name=name)
    specs = [named(leaf, joined(name, path)) for path, leaf in paths(spec)]
    return tf.nest.pack_sequence_as(spec, specs)


def paths(structure):
    """Returns pairs of a path and what is there in a structure."""
    return keras.tree.flatten_with_path(structure)


def joined(name, path):
    """Returns the name, an identifier, of the part of an argument."""
    return re.sub(r"\W", "_", "_".join([name, *map(str, path)]), flags=re.ASCII)


def _flat(values, specs):
    """Returns the tensors of some arguments by the names of their specs."""
    flat = {}
    for key, value in values.items():
        names = [key]
        if key in specs:
            names = [spec.name for spec in tf.nest.flatten(specs[key])]
        flat.update(zip(names, tf.nest.flatten(value), strict=True))
    return flat


def _same_lengths(sentence, tensors, axis):
    *first, last = (f"`{name}`" for name in tensors)
    names = f"{', '.join(first)} and {last}" if first else last
    shapes = {name: str(tensor.shape) for name, tensor in tensors.items()}
    return run_time_checks.check_lengths(
        tensors, axis, sentence.format(names=names), f"Received: {shapes}"
    )


def _are_finite(tensors):
    """Returns whether tensors `(tasks, ...)` are finite, `(tensors, tasks)`."""
    return tf.stack(
        [
            tf.reduce_all(
                tf.math.is_finite(tensor), list(range(1, tensor.shape.rank))
            )
            for tensor in tensors
            if tensor.dtype.is_floating
        ]
    )


def _finite(tensors, sentence=_FINITE):
    """Checks tensors by name, and names the first one that is not finite."""
    tensors = {n: t for n, t in tensors.items() if t.dtype.is_floating}
    if not tensors:
        return None
    finite = _are_finite(tensors.values())

    def received():
        bad = tf.cast(~finite, tf.int32)
        number = tf.argmax(tf.reduce_max(bad, 1))
        name = tf.gather(list(tensors), number)
        return [name, "in task", tf.argmax(tf.gather(bad, number))]

    return run_time_checks.require(tf.reduce_all(finite), sentence, received)


def _nan_unless(is_good, tensor):
    """Returns a tensor with NaN for each task that is not good."""
    if not tensor.dtype.is_floating:
        return tensor
    shape = tf.concat([tf.shape(is_good), [1] * (tensor.shape.rank - 1)], 0)
    nan = tf.cast(float("nan"), tensor.dtype)
    return tf.where(tf.reshape(is_good, shape), tensor, nan)


def predictions(outputs):
    """Returns outputs by name."""
    if tf.is_tensor(outputs):
        return {"predictions": outputs}
    return {joined("predictions", p): tensor for p, tensor in paths(outputs)}


def _check_weight(weight):
    is_right = tf.reduce_all(tf.math.is_finite(weight) & (weight >= 0), 1)
    # A task without an example cannot be learned.
    is_right &= tf.reduce_any(weight > 0, 1)
    return run_time_checks.require(
        tf.reduce_all(is_right),
        _WEIGHT,
        lambda: [tf.argmin(tf.cast(is_right, tf.int32))],
    )


def _check_steps(steps):
    is_right = (steps >= DEFAULT_STEPS) & (steps <= MAX_STEPS)
    return run_time_checks.require(
        tf.reduce_all(is_right), _STEPS, lambda: [steps]
    )


def _check_head(kernel, bias):
    classes = tf.stack([tf.shape(kernel)[-1], tf.shape(bias)[-1]])
    return run_time_checks.require(
        classes[0] == classes[1], _CLASSES, lambda: [classes]
    )
