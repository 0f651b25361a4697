"""Every private name of Keras and TensorFlow that the library leans on.

Each stands here once, with a test in `tests/keras_internals_test.py` that says
what breaks when an update of Keras or TensorFlow takes the name away.
"""

import functools

import keras
import tensorflow as tf

# Functions that Keras's layers look up when they are traced, by the module in
# which `exact.lowering` puts exact ones in their place.
REPLACED_FUNCTIONS = {
    "moments": tf.nn,
    "bias_add": tf.nn,
    "convolution": tf.nn,
    "relu": tf.nn,
    "max_pool": tf.nn,
    "resize": tf.image,
}

# What Keras's generator adds to its seed with each draw.
SEED_INCREMENT = (0, 1)

# Words of TensorFlow's errors about what it cannot vectorize.
_VECTORIZATION_WORDS = ("loop invariant", "pfor")

# What Keras keeps of its own as functions of TensorFlow, on each model.
_STEP_FUNCTIONS = {"train_function", "test_function", "predict_function"}


def all_layers(model, include_self=True):
    """The model's layers at any depth, those inside of wrappers too."""
    return list(model._flatten_layers(include_self=include_self))


def forget_losses(model):
    """Clears what the layers remember of `add_loss`, which would only grow."""
    model._clear_losses()


def get_mask(tensor):
    """The mask that a Keras layer hung on its output, or `None`."""
    return getattr(tensor, "_keras_mask", None)


def set_mask(tensor, mask):
    """Hangs a mask on a tensor, where losses and metrics look for one."""
    tensor._keras_mask = mask


def seed_variables(model):
    """The state variables of all random seed generators of a model."""
    return [
        generator.state
        for layer in all_layers(model)
        for generator in layer._seed_generators
        if isinstance(generator, keras.random.SeedGenerator)
    ]


def is_lora(variable):
    """Whether a layer's `enable_lora` has added the variable."""
    return variable.name.startswith("lora_")


def leave_inputs_alone(model):
    """Has inputs reach the model's `call` as they are, integers included."""
    model._convert_input_args = False
    model._allow_non_tensor_positional_args = True


def start_at_first_epoch(model):
    """Forgets the epoch at which `BackupAndRestore` has gone on."""
    model._initial_epoch = None


def loss_tracker(model):
    """The metric that holds the mean of the loss, of a compiled model."""
    return model._loss_tracker


def unbuilt_metrics(model):
    """The compiled metrics if their variables are still to be made."""
    metrics = model._compile_metrics
    return None if metrics is None or metrics.built else metrics


class AutoJitCompile:
    """Tells `compile(jit_compile="auto")` from `False`.

    Keras puts `False` in the place of `"auto"` where it would not compile the
    step. Then `jit_compile` is `None` here: the library may still choose.
    """

    def _resolve_auto_jit_compile(self):
        return super()._resolve_auto_jit_compile() or None


def graph_functions(layer):
    """Names of a layer's own methods and attributes that are `tf.function`s."""
    kind = tf.types.experimental.PolymorphicFunction
    found = {
        name
        for scope in (*map(vars, type(layer).__mro__), vars(layer))
        for name, value in scope.items()
        if isinstance(value, kind)
    }
    return sorted(found - _STEP_FUNCTIONS)


def is_vectorization_error(error):
    """Whether an error of `tf.vectorized_map` says it has no form of an op."""
    kinds = (ValueError, NotImplementedError, AssertionError)
    return isinstance(error, kinds) and any(
        word in str(error) for word in _VECTORIZATION_WORDS
    )


def operations_without_xla(function):
    """Types of the operations in a concrete function that XLA cannot compile.

    An empty list where TensorFlow does not tell.
    """
    graph = function.graph.as_graph_def()
    nodes = [graph.node, *(f.node_def for f in graph.library.function)]
    kinds = {node.op for group in nodes for node in group}
    calls = {f.signature.name for f in graph.library.function}
    # The arguments of the function itself.
    kinds -= {"Placeholder", *calls}
    return sorted(kind for kind in kinds if not _has_xla_kernel(kind))


@functools.cache
def _has_xla_kernel(kind):
    from tensorflow.python.framework import kernels

    _register_xla_kernels()
    found = kernels.get_registered_kernels_for_op(kind).kernel
    devices = {kernel.device_type for kernel in found}
    # Without any kernel it is no operation, but part of the graph itself.
    return not devices or any(d.startswith("XLA_") for d in devices)


@functools.cache
def _register_xla_kernels():
    """Compiles once: TensorFlow registers XLA's kernels only then."""
    with tf.init_scope():
        tf.function(lambda x: x + 1.0, jit_compile=True)(tf.constant(0.0))
