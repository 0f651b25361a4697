"""How thoroughly TensorFlow improves the graph of a step before it runs."""

import contextlib
import functools

from keras_maml import devices
from keras_maml import tensorflow_internals

# Of more weights, TensorFlow's passes over the graph take many seconds, since
# the gradients and the outer optimizer have operations for each weight.
_MANY_WEIGHTS = 100


def for_large_graphs(function, learner):
    """Returns `function`, a step, with few passes if its graph is large.

    On a CPU, the time of a step did not show what the other passes do, see
    docs/performance.md.
    """

    # Once, when the learner is built: to count takes time in each step, and
    # TensorFlow prepares a graph again for other passes.
    @functools.cache
    def has_few_passes():
        is_large = len(learner.weights) > _MANY_WEIGHTS
        return is_large and not devices.accelerators()

    @functools.wraps(function)
    def call(*args):
        if has_few_passes():
            passes = tensorflow_internals.few_graph_passes()
        else:
            passes = contextlib.nullcontext()
        with passes:
            return function(*args)

    return call
