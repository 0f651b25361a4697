"""How far the first-order meta-gradient is from the exact one."""

import tensorflow as tf

from keras_maml.engine import contract
from keras_maml.engine import meta_step
from keras_maml.engine import seeds
from keras_maml.engine import targets
from keras_maml.meta_gradients import FirstOrder
from keras_maml.meta_gradients import SecondOrder


def gradient_cosine(meta_model, x, y, sample_weight=None):
    """Returns the cosine between first- and second-order meta-gradients.

    Args:
        meta_model: a compiled, built `MetaModel`.
        x: dict of tensors, the inputs of a meta-batch.
        y: structure of tensors, the targets of its queries.
        sample_weight: structure of tensors, or `None`.

    Returns:
        A scalar between -1 and 1.
    """
    x = contract.check_inputs(x)
    y, sample_weight = contract.check_targets(x, y, sample_weight)
    x, y = targets.checked(meta_model, x, y, sample_weight)
    count = tf.shape(tf.nest.flatten(y)[0])[0]
    tasks = {"x": x, "number": seeds.task_numbers(count)}
    first, second = (
        _gradient(meta_model, tasks, y, sample_weight, meta_gradient)
        for meta_gradient in (FirstOrder(), SecondOrder())
    )
    lengths = tf.norm(first) * tf.norm(second)
    return tf.math.divide_no_nan(tf.tensordot(first, second, 1), lengths)


def _gradient(meta_model, tasks, y, sample_weight, meta_gradient):
    """Returns the mean gradient of θ over tasks, as one vector."""
    state = meta_model.meta_state
    kept = state.meta_gradient_for_now, meta_model.task_map
    # XLA would take longer to compile than the few tasks take.
    state.meta_gradient_for_now, meta_model.task_map = meta_gradient, "loop"
    try:
        step = meta_step.MetaStep(
            meta_model, tasks, y, sample_weight, training=True
        )
        gradients = step.run().mean["gradients"].weights
    finally:
        state.meta_gradient_for_now, meta_model.task_map = kept
    return tf.concat([tf.reshape(gradient, [-1]) for gradient in gradients], 0)
