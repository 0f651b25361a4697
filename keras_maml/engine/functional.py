"""Calling a Keras model with given weights, as a pure function."""

from typing import Any
from typing import NamedTuple

import keras
import tensorflow as tf

from keras_maml.exact import lowering


class LearnerOutput(NamedTuple):
    """What one call of the learner gives.

    Attributes:
        outputs: what the learner returned.
        losses: list of scalars: its regularisers at the weights it was called
            with, and whatever its layers passed to `add_loss`.
        state: dict, from the position of a variable in
            `learner.non_trainable_variables` to its new value; holds those
            variables only that some call has changed.
    """

    outputs: Any
    losses: list
    state: dict


def call_learner(learner, weights, state, x, *, training):
    """Calls `learner` with `weights` in place of its trainable variables.

    Nothing is assigned: the new values of moving averages, seeds and other
    state come back in the result.

    Args:
        learner: a built Keras model.
        weights: list of tensors, one for each of
            `learner.trainable_variables`, in that order.
        state: dict of the state so far, as in `LearnerOutput.state`.
        x: the input of the learner.
        training: bool, given to the learner.

    Returns:
        A `LearnerOutput`.
    """
    non_trainable = learner.non_trainable_variables
    mapping = list(zip(learner.trainable_variables, weights))
    mapping += [(non_trainable[i], value) for i, value in state.items()]
    with lowering.exact_ops():
        with keras.StatelessScope(mapping, collect_losses=True) as scope:
            outputs = learner(x, training=training)
            losses = [
                tf.reduce_sum(tf.cast(loss, keras.backend.floatx()))
                for loss in learner.losses
            ]
            # The layers remember which losses were theirs; left alone, that
            # memory would grow with every call.
            learner._clear_losses()
    new_state = {}
    for i, variable in enumerate(non_trainable):
        value = scope.get_current_value(variable)
        if value is not None:
            new_state[i] = tf.convert_to_tensor(value)
    return LearnerOutput(outputs, losses, new_state)


def check_layers(learner):
    """Raises `ValueError` if the learner has a layer that would go wrong."""
    on_gpu = bool(tf.config.list_physical_devices("GPU"))
    for layer in learner._flatten_layers():
        if layer.variable_dtype == "float16":
            raise ValueError(
                "Weights in float16 are not supported: the small steps of the "
                "inner loop would become 0. Use `mixed_float16` or "
                "`mixed_bfloat16`. "
                f"Received: layer {layer.name!r} with weights in float16"
            )
        if getattr(layer, "synchronized", False):
            raise ValueError(
                "`synchronized=True` is not supported: the statistics of batch "
                "normalisation are a task's, and a task is on one device. "
                f"Received: layer {layer.name!r}"
            )
        if on_gpu and getattr(layer, "use_cudnn", False):
            raise ValueError(
                "cuDNN's recurrent layers have no second derivatives. Pass "
                f"`use_cudnn=False`. Received: layer {layer.name!r} with "
                f"use_cudnn={layer.use_cudnn!r}"
            )


def is_half(learner):
    """Whether some layer computes in float16, whose gradients may vanish."""
    return any(
        layer.compute_dtype == "float16" for layer in learner._flatten_layers()
    )


def masks(outputs):
    """The masks that Keras's layers hung on `outputs`, by flat position."""
    return {
        i: tensor._keras_mask
        for i, tensor in enumerate(tf.nest.flatten(outputs))
        if getattr(tensor, "_keras_mask", None) is not None
    }


def set_masks(outputs, masks):
    """Hangs masks, from `masks`, on outputs, where losses and metrics look."""
    flat = tf.nest.flatten(outputs)
    for i, mask in masks.items():
        flat[i]._keras_mask = mask


def seed_positions(learner):
    """Positions of random seeds among `learner.non_trainable_variables`."""
    return [
        i
        for i, variable in enumerate(learner.non_trainable_variables)
        if variable.name == "seed_generator_state"
    ]


def task_seeds(learner, task_index):
    """Seeds of one task, so that no two tasks share their dropout masks.

    Args:
        learner: a built Keras model.
        task_index: integer scalar, the task's position in the meta-batch.

    Returns:
        A state dict with one seed for each of the learner's generators.
    """
    variables = learner.non_trainable_variables
    return {
        i: tf.random.experimental.stateless_fold_in(
            tf.convert_to_tensor(variables[i].value), task_index
        )
        for i in seed_positions(learner)
    }


def averageable_state(learner, state):
    """The part of a task's state whose mean over tasks is meaningful.

    Seeds are left out. Integers become float64, which keeps the mean of equal
    counters exact.
    """
    seeds = seed_positions(learner)
    return {
        i: value if value.dtype.is_floating else tf.cast(value, tf.float64)
        for i, value in state.items()
        if i not in seeds
    }


def assign_state(learner, mean_state, count, stand_ins):
    """Assigns the mean over tasks of the state, and moves every seed on.

    Args:
        learner: a built Keras model.
        mean_state: dict, the mean of `averageable_state` over tasks.
        count: integer scalar, the number of those tasks, which may differ
            from replica to replica and be 0.
        stand_ins: dict, the variables that some state belongs to in the place
            of the learner's own, by position.
    """
    variables = list(learner.non_trainable_variables)
    for i, variable in stand_ins.items():
        variables[i] = variable
    context = tf.distribute.get_replica_context()
    if context and context.num_replicas_in_sync > 1 and mean_state:
        # Keras would keep the first replica's.
        mean_state = _mean_over_replicas(context, mean_state, count)
    for i, value in mean_state.items():
        if not tf.as_dtype(variables[i].dtype).is_floating:
            value = tf.round(value)
        variables[i].assign(tf.cast(value, variables[i].dtype))
    for i in seed_positions(learner):
        seed = tf.convert_to_tensor(variables[i].value)
        variables[i].assign(seed + tf.constant([0, 1], seed.dtype))


def _mean_over_replicas(context, mean_state, count):
    def total(tensor):
        return context.all_reduce(tf.distribute.ReduceOp.SUM, tensor)

    all_tasks = total(tf.cast(count, tf.float64))

    def mean(tensor):
        share = tf.cast(count, tensor.dtype) / tf.cast(all_tasks, tensor.dtype)
        return total(tensor * share)

    return {i: mean(tensor) for i, tensor in mean_state.items()}


def clone(learner, values, head=(), x=None):
    """A copy of `learner` with variables of its own.

    Args:
        learner: a built Keras model.
        values: dict, from the `id` of one of the learner's variables to the
            value that its copy gets. The others keep theirs.
        head: a kernel and a bias for one more dense layer, if any.
        x: an input of the learner, needed for its shapes if there is a `head`.

    Returns:
        A Keras model of the same class; of a functional one if there is a
        `head`.

    Raises:
        ValueError: if Keras cannot make a second instance, as for a subclassed
            model without `get_config`.
    """
    try:
        copy = keras.models.clone_model(learner)
    except Exception as error:
        raise ValueError(
            "Keras cannot copy the learner. A subclassed model or layer needs "
            "`get_config` (and `from_config` where its arguments are objects), "
            "and a `Lambda` layer has to be made a layer of its own. "
            f"Received: learner={learner!r}, which failed with: {error}"
        ) from error
    if not copy.built:
        copy.build_from_config(learner.get_build_config())
    for variable, copied in zip(learner.variables, copy.variables):
        copied.assign(values.get(id(variable), variable))
    if not head:
        return copy
    kernel, bias = head
    dense = keras.layers.Dense(kernel.shape[-1], name="head")
    dense.build(kernel.shape[:1])
    dense.set_weights([kernel, bias])
    inputs = tf.nest.map_structure(
        lambda t: keras.Input(t.shape[1:], dtype=t.dtype.name), x
    )
    return keras.Model(inputs, dense(copy(inputs)), name=learner.name)
