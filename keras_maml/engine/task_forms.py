"""Which form of the map over tasks is the fastest one for a learner.

The limits are of measurements on two cores, see docs/performance.md.
"""

import math

import keras
from keras import layers

from keras_maml import devices
from keras_maml.engine.step_forms import compiles_whole_step

# Weights of a learner's largest kernel. For larger ones, TensorFlow's own
# kernels for matrices are faster than XLA's.
_MAX_COMPILED = 200_000

# The same, times the inner steps whose weights are kept. A vectorized program
# has those of all tasks of a chunk at the same time, and is fast if they fit
# in the cache.
_MAX_VECTORIZED = 18_500


def chosen(meta_model, count):
    """Returns the form that `task_map="auto"` stands for.

    Args:
        meta_model: a built `MetaModel`.
        count: int, the number of tasks, or `None` if it is unknown.
    """
    if not count:
        return "loop"
    if devices.accelerators():
        # A loop of small kernels would leave most of the device idle.
        return "vectorized"
    if meta_model.head_init is not None or not is_light(meta_model.learner):
        return "loop"
    second_order = meta_model.meta_state.meta_gradient.second_order
    return fastest(
        meta_model.learner,
        meta_model.inner_steps if second_order else 1,
        compiles_chunks(meta_model),
    )


def compiles_chunks(meta_model):
    """Returns whether XLA compiles chunks of tasks."""
    # It would need to know the size of a head.
    return meta_model.jit_compile is not False and meta_model.head_init is None


def parallelism(meta_model):
    """Returns the `parallelism` of `task_map.map_tasks`, or `None`."""
    if compiles_whole_step(meta_model) and not devices.accelerators():
        # The program uses one core.
        return 1
    return meta_model.task_parallelism


def fastest(learner, kept_steps, jit_compile=True):
    """Returns the fastest form on a CPU, one of `task_map.FORMS`.

    Args:
        learner: a built learner, see `is_light`.
        kept_steps: int, the number of inner steps that a derivative goes
            through, or 1.
        jit_compile: bool. Whether XLA may compile.
    """
    sizes = [math.prod(v.shape) for v in learner.trainable_variables]
    largest = max(sizes, default=0)
    if largest > _MAX_COMPILED:
        return "loop"
    if largest * kept_steps > _MAX_VECTORIZED:
        # Without XLA, a loop within a chunk is only a loop.
        return "compiled" if jit_compile else "loop"
    return "vectorized"


def is_light(learner):
    """Returns whether all layers of a learner are dense, or as cheap.

    Convolutions with one kernel for each task would not become one operation.
    """
    # The `call` of a subclass may do anything.
    if type(learner) is keras.Sequential:
        return all(is_light(layer) for layer in learner.layers)
    if isinstance(learner, keras.Function) and isinstance(learner, keras.Model):
        is_from_keras = type(learner).__module__.partition(".")[0] == "keras"
        return is_from_keras and all(map(is_light, learner.operations))
    return type(learner) in _VECTORIZED_LAYERS


_VECTORIZED_LAYERS = frozenset(
    {
        layers.InputLayer,
        layers.Dense,
        layers.Flatten,
        layers.Reshape,
        layers.Activation,
        layers.ReLU,
        layers.LeakyReLU,
        layers.ELU,
        layers.Softmax,
        layers.LayerNormalization,
        layers.Rescaling,
        layers.Add,
        layers.Subtract,
        layers.Multiply,
        layers.Average,
        layers.Concatenate,
    }
)
