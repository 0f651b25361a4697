"""An ordinary Keras model with adapted weights."""

import keras
import tensorflow as tf


def copy_learner(learner, values, head=(), x=None):
    """Copies `learner`, including its variables.

    Args:
        learner: a built Keras model.
        values: dict, from the `id` of a variable of the learner to the value
            of its copy. Copies of other variables keep the old values.
        head: empty, or the kernel and the bias of a further dense layer.
        x: an input of the learner, needed if there is a `head`.

    Returns:
        A Keras model of the same class, or a functional model if there is a
        `head`.

    Raises:
        ValueError: if Keras cannot copy the learner, such as a subclassed
            model without `get_config`.
    """
    try:
        copy = keras.models.clone_model(learner)
    except Exception as error:
        raise ValueError(
            "Keras cannot copy the learner. A subclassed model or layer needs "
            "`get_config` (and `from_config` if its arguments are objects). "
            "Replace a `Lambda` layer by a subclass of `keras.Layer`. "
            f"Received: learner={learner!r}, which failed with: {error}"
        ) from error
    if not copy.built:
        copy.build_from_config(learner.get_build_config())
    shapes, copied_shapes = (
        [tuple(variable.shape) for variable in model.variables]
        for model in (learner, copy)
    )
    if copied_shapes != shapes:
        raise ValueError(
            "Keras's copy of the learner has other variables. "
            "A subclassed model or layer must make all its variables from the "
            "result of `get_config`. "
            f"Received: learner={learner!r} with variables of shapes {shapes}, "
            f"its copy with {copied_shapes}"
        )
    for variable, copied in zip(learner.variables, copy.variables, strict=True):
        copied.assign(values.get(id(variable), variable))
    return _with_head(copy, head, x) if head else copy


def _with_head(body, head, x):
    """Returns a functional model of `body` and a dense layer."""
    kernel, bias = head
    dense = keras.layers.Dense(kernel.shape[-1], name="head")
    dense.build(kernel.shape[:1])
    dense.set_weights([kernel, bias])
    # Keras wants the inputs in a dict to have the names of their keys.
    names = {id(t): key for key, t in x.items()} if isinstance(x, dict) else {}
    inputs = tf.nest.map_structure(
        lambda t: keras.Input(
            t.shape[1:], dtype=t.dtype.name, name=names.get(id(t))
        ),
        x,
    )
    return keras.Model(inputs, dense(body(inputs)), name=body.name)
