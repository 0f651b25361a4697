"""Checks that targets fit the learner's outputs and Keras's losses.

The checks are made once for a whole meta-batch, before its tasks run: XLA may
compile the tasks, and has no errors.
"""

import functools
from typing import Any
from typing import NamedTuple

import tensorflow as tf

from keras_maml.engine import functional
from keras_maml.engine import loss_rules
from keras_maml.engine import prototypes
from keras_maml.engine import run_time_checks
from keras_maml.engine import weightless
from keras_maml.engine.loss_rules import LossRule
from keras_maml.exact import built_in


class _Target(NamedTuple):
    """One target of a meta-batch, and what it has to fit.

    Attributes:
        name: string, the argument that holds the target.
        values: tensor `(tasks, examples, ...)`.
        weight: tensor `(tasks, examples, ...)`, or `None`.
        rule: a `LossRule`.
        output: `tf.TensorShape`, the learner's output for the examples of one
            task.
        classes: int, the number of classes. A tensor, if it depends on the
            support set. `None` if any label from 0 is right.
    """

    name: str
    values: tf.Tensor
    weight: tf.Tensor | None
    rule: LossRule
    output: tf.TensorShape
    classes: Any


def checked(meta_model, x, y=None, sample_weight=None):
    """Checks the targets of a meta-batch.

    Args:
        meta_model: a built `MetaModel`.
        x: dict of tensors, the inputs of the meta-batch.
        y: structure of tensors, the query targets, or `None`.
        sample_weight: structure of tensors, the weights of `y`, or `None`.

    Returns:
        A tuple `(x, y)`. Rows of weight 0 are filled, see `weightless`. If a
        label of weight 0 is still no class, it is 0, so that a loss can read
        it. In a graph, they are read after the checks of what the trace did
        not know.

    Raises:
        ValueError: if a target does not fit.
    """
    x, y = weightless.filled(x, y, sample_weight)
    weight = x.get("support_weight")
    compiled_loss = getattr(meta_model, "loss", None)
    classes = None
    if meta_model.head_init is None:
        loss = meta_model.inner_loss
        outputs = functools.partial(_output_shapes, meta_model, x["support_x"])
        support_y = _checked(
            "support_y",
            x["support_y"],
            weight,
            compiled_loss if loss is None else loss,
            outputs,
        )
    else:

        def outputs():
            return [tf.TensorShape([None, None])]

        support_y = _checked_prototypes(x["support_y"], weight, outputs()[0])
        classes = prototypes.count_classes(support_y)
    if y is not None:
        y = _checked("y", y, sample_weight, compiled_loss, outputs, classes)
    return {**x, "support_y": support_y}, y


def checked_support(meta_model, x):
    """As `checked`, of the support set of one task, without the task axis."""
    tasks = tf.nest.map_structure(lambda t: t[tf.newaxis], x)
    tasks, _ = checked(meta_model, tasks)
    return tf.nest.map_structure(lambda t: t[0], tasks)


def _checked(name, targets, weights, loss, outputs, classes=None):
    """Returns the structure `targets` after the checks of its losses."""
    flat_targets = tf.nest.flatten(targets)
    rules = loss_rules.rules_of(loss, len(flat_targets))
    if not any(rules):
        return targets
    shapes = outputs()
    if len(shapes) != len(rules):
        # Keras names this mistake.
        return targets
    flat_weights = tf.nest.flatten(weights)
    if len(flat_weights) != len(rules):
        # One structure of weights stands for all outputs.
        flat_weights = flat_weights[:1] * len(rules)
    results = [
        values
        if rule is None
        else _checked_one(
            _Target(
                name,
                values,
                weight,
                rule,
                output,
                output[-1] if classes is None else classes,
            )
        )
        for values, weight, rule, output in zip(
            flat_targets, flat_weights, rules, shapes, strict=True
        )
    ]
    return tf.nest.pack_sequence_as(targets, results)


def _checked_one(target):
    checks = [_check_shape(target)]
    values = target.values
    if target.rule.sparse:
        values, check = _check_labels(target)
        checks.append(check)
    return run_time_checks.after(checks, values)


def _checked_prototypes(labels, weight, output):
    """Returns the labels after the checks of a head from prototypes."""
    if not tf.is_tensor(labels) or not labels.dtype.is_integer:
        # `prototypes.linear_head` names this mistake.
        return labels
    rule = LossRule(sparse=True)
    target = _Target("support_y", labels, weight, rule, output, None)
    labels, check = _check_labels(target)
    return run_time_checks.after([check], labels)


def _check_shape(target):
    """Returns the check of the lengths that a trace does not know.

    As in Keras, targets may lack a last axis of length 1, or have one.
    """
    shape, wanted = list(target.values.shape[1:]), list(target.output)
    demand = "a value for each value"
    if target.rule.sparse:
        wanted = wanted[:-1]
        demand = "one class label for each vector"
    sentence = (
        f"`{target.name}` must have {demand} of the learner's output, whose "
        f"shape for one task is {_text(target.output)}. Keras would repeat "
        f"values along an axis that does not fit. Received: {target.name}, for "
        "one task,"
    )
    pairs = list(zip(shape, wanted, strict=False))
    fits = all(None in pair or pair[0] == pair[1] for pair in pairs)
    extra, missing = shape[len(wanted) :], wanted[len(shape) :]
    fits = fits and extra in ([], [1], [None])
    fits = fits and missing in ([], [1], [None])
    if not fits or (missing and target.rule.sparse):
        raise ValueError(f"{sentence} of shape {_text(shape)}")
    unknown = [i for i, (n, m) in enumerate(pairs) if n is None and m]
    if not unknown:
        return None
    actual = tf.shape(target.values)[1:]
    return run_time_checks.require(
        tf.reduce_all(
            tf.gather(actual, unknown) == [wanted[i] for i in unknown]
        ),
        f"{sentence} of shape",
        lambda: [actual],
    )


def _check_labels(target):
    """Returns the labels, and the check that each of them is a class."""
    labels, rule = target.values, target.rule
    is_float = labels.dtype.is_floating
    numbers = tf.cast(labels, tf.float32 if is_float else tf.int64)
    is_wrong = numbers < 0
    if target.classes is not None:
        is_wrong |= numbers >= tf.cast(target.classes, numbers.dtype)
    if is_float:
        is_wrong |= numbers != tf.floor(numbers)
    if rule.ignore_class is not None:
        is_wrong &= numbers != tf.cast(rule.ignore_class, numbers.dtype)
    if target.weight is not None:
        counts = weightless.has_weight(target.weight, labels)
        # The largest label may tell the number of classes.
        unused = ~counts & (is_wrong | (target.classes is None))
        labels = tf.where(unused, tf.zeros_like(labels), labels)
        is_wrong &= counts

    if built_in.is_required():
        if target.classes is not None:
            labels = looked_up(labels, target.classes, rule.ignore_class)
        return labels, None

    def received():
        # XLA compiles this also for a replica without tasks, so for no label.
        flat = tf.concat([tf.reshape(is_wrong, [-1]), [True]], 0)
        values = tf.concat(
            [
                tf.reshape(target.values, [-1]),
                tf.zeros([1], target.values.dtype),
            ],
            0,
        )
        position = tf.argmax(tf.cast(flat, tf.int32), output_type=tf.int32)
        per_task = tf.reduce_prod(tf.shape(is_wrong)[1:])
        return [
            values[position],
            "in task",
            position // tf.maximum(per_task, 1),
        ]

    return labels, run_time_checks.require(
        ~tf.reduce_any(is_wrong),
        f"`{target.name}` must hold class labels, {_labels_text(target)}. "
        "Rows of weight 0 may hold any label. "
        f"Received: {target.name} with the label",
        received,
    )


def looked_up(labels, classes, ignore_class=None):
    """Returns the labels. LiteRT refuses to look up one that is no class.

    Args:
        labels: tensor of class labels.
        classes: int, the number of classes.
        ignore_class: int, a label that may stand for no class, or `None`.
    """
    if labels.dtype.is_floating:
        # The cast would round them, and a device says nothing.
        raise ValueError(
            "A LiteRT file needs class labels of an integer dtype. Pass an "
            "`input_signature` whose `support_y` has one. "
            f"Received: support_y of dtype {labels.dtype.name}"
        )
    numbers = tf.cast(labels, tf.int32)
    if ignore_class is None:
        return tf.cast(tf.gather(tf.range(classes), numbers), labels.dtype)
    is_ignored = tf.equal(numbers, ignore_class)
    numbers = tf.where(is_ignored, tf.zeros_like(numbers), numbers)
    found = tf.cast(tf.gather(tf.range(classes), numbers), labels.dtype)
    return tf.where(is_ignored, labels, found)


def _labels_text(target):
    if target.classes is None:
        return "integers of at least 0"
    if tf.is_tensor(target.classes):
        return "integers from 0 to the largest label in `support_y`"
    return (
        f"integers from 0 to {target.classes - 1}, because the learner has "
        f"{target.classes} outputs"
    )


def _text(shape):
    first, *others = shape
    return f"({', '.join(['examples', *map(str, others)])})"


def _output_shapes(meta_model, inputs):
    """Returns the shapes of the learner's outputs for one task, in a list."""
    learner = meta_model.learner
    outputs = getattr(learner, "outputs", None)
    if outputs:
        shapes = [output.shape for output in outputs]
    else:
        shapes = _shapes_of_call(meta_model, inputs)
    return [tf.TensorShape([None, *shape[1:]]) for shape in shapes]


def _shapes_of_call(meta_model, inputs):
    """Returns the shapes of the outputs of a learner that only a call tells."""
    known = meta_model.meta_state.output_shapes
    key = str([(t.shape[2:], t.dtype) for t in tf.nest.flatten(inputs)])
    if key in known:
        return known[key]
    spec = tf.nest.map_structure(
        lambda t: tf.TensorSpec(t.shape[1:], t.dtype), inputs
    )

    @functools.partial(tf.function, autograph=False)
    def call(x):
        weights = meta_model.meta_state.theta().weights
        output = functional.call_learner(
            meta_model.learner, weights, {}, x, training=False
        )
        return output.outputs

    outputs = call.get_concrete_function(spec).structured_outputs
    known[key] = [output.shape for output in tf.nest.flatten(outputs)]
    return known[key]
