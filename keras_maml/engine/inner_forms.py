"""Which form the inner steps have in a graph, one of `inner_loop.FORMS`."""

import keras
import tensorflow as tf

from keras_maml import keras_internals
from keras_maml.engine import task_forms
from keras_maml.engine.step_forms import compiles_whole_step
from keras_maml.exact import built_in
from keras_maml.exact import task_axis

# Up to this number, steps that are not computed again are faster. More steps
# run in a loop, so that neither graph nor memory grows with their number.
_MAX_KEPT = 5

# The adapted weights of all steps. Of more, unrolled steps take seconds to
# trace. Of fewer, they are some percent faster than calls of one step.
_MAX_UNROLLED_WEIGHTS = 100


def inner_form(learner, adapted, steps, rematerialize, trace_once):
    """Returns the form of the inner steps.

    Args:
        learner: the learner.
        adapted: int, the number of weights that adapt.
        steps: int, the number of inner steps, or a tensor.
        rematerialize: bool. Whether the backward pass computes each step again.
        trace_once: bool. Whether steps may be traced once.
    """
    if tf.is_tensor(steps):
        return "counted"
    if built_in.is_required():
        # Without loops, every step can be planned for.
        return "unrolled"
    if rematerialize or steps > _MAX_KEPT:
        return "rematerialized"
    if trace_once and (
        adapted * steps > _MAX_UNROLLED_WEIGHTS or _has_loop(learner)
    ):
        return "traced_once"
    return "unrolled"


def may_trace_once(meta_model):
    """Returns whether the steps of a task that is traced here may be calls.

    The graphs of light learners are small, and XLA inlines calls.
    """
    return not (
        task_forms.is_light(meta_model.learner)
        or task_axis.is_vectorized()
        or compiles_whole_step(meta_model)
    )


def _has_loop(learner):
    """Returns whether a layer is a loop, whose derivatives are further ones."""
    return any(
        isinstance(layer, keras.layers.RNN) and not layer.unroll
        for layer in keras_internals.all_layers(learner)
    )
