"""The private names of TensorFlow about programs: vectorized, compiled, freed.

`tests/tensorflow_internals_test.py` has a test for each name, as
`keras_internals.py` has.
"""

import contextlib
import functools
import itertools
import logging
import re
import threading
import weakref

import tensorflow as tf
from tensorflow.core.protobuf import config_pb2
from tensorflow.core.protobuf import rewriter_config_pb2
from tensorflow.python import pywrap_tfe
from tensorflow.python.client import pywrap_tf_session
from tensorflow.python.eager import context
from tensorflow.python.eager import record
from tensorflow.python.framework.func_graph import FuncGraph
from tensorflow.python.framework.ops import gradient_registry
from tensorflow.python.ops import handle_data_util

# XLA compiles these only for indices that are constants; what TensorFlow makes
# of a vectorized `tf.cond` has others.
_XLA_NEEDS_CONSTANTS = {"DynamicPartition", "DynamicStitch"}
# For XLA, shapes are constants.
_CONSTANTS = {"Const", "Rank", "Shape", "ShapeN", "Size"}

# The passes without which steps are slower, in the order in which they run.
_FEW_PASSES = ("function", "pruning", "dependency", "loop")

# For the names of gradients.
_numbers = itertools.count()


@contextlib.contextmanager
def changes_after(check):
    """Lets what changes variables in a `with` block wait for a tensor.

    `tf.control_dependencies` would let every operation of the block wait, also
    those that could run before, and TensorFlow would then simplify none. In a
    step of 0.3 ms, that costs 5 %.

    Args:
        check: a tensor that raises an error if nothing must change, or `None`.
            Has no effect in eager execution.
    """
    if check is None or tf.executing_eagerly():
        yield
        return
    graph = check.graph
    known = len(graph.get_operations())
    yield
    for operation in graph.get_operations()[known:]:
        if operation.op_def.is_stateful and operation.type != "ReadVariableOp":
            operation._add_control_input(check.op)


@contextlib.contextmanager
def few_graph_passes():
    """Lets TensorFlow run few passes over the graphs of a `with` block, once.

    This is about the functions that the block calls from Python, each time.
    What a user has set by `tf.config.optimizer` stays.
    """
    thread = context.context()
    before = thread.function_call_options
    few = _with_few_passes(before.config_proto_serialized)
    thread.function_call_options = context.FunctionCallOptions(
        before.executor_type, few
    )
    try:
        yield
    finally:
        # What the block itself has set stays too.
        now = thread.function_call_options.config_proto_serialized
        if now == few.SerializeToString(deterministic=True):
            thread.function_call_options = before


@functools.lru_cache
def _with_few_passes(config):
    config = config_pb2.ConfigProto.FromString(config)
    if not config.graph_options.HasField("rewrite_options"):
        options = config.graph_options.rewrite_options
        options.optimizers.extend(_FEW_PASSES)
        options.meta_optimizer_iterations = (
            rewriter_config_pb2.RewriterConfig.ONE
        )
    return config


class VectorizationLog(logging.Filter):
    """Keeps what TensorFlow logs of an operation that it cannot vectorize.

    TensorFlow logs kilobytes of the graph for each one, and advice to itself.
    While a `with` block runs, `text` gets that in the place of the log.
    """

    def __init__(self):
        super().__init__()
        self.text = ""
        self._thread = threading.get_ident()

    def __enter__(self):
        tf.get_logger().addFilter(self)
        return self

    def __exit__(self, *exception):
        tf.get_logger().removeFilter(self)

    def filter(self, record):
        is_mine = record.module == "pfor" and record.thread == self._thread
        if is_mine:
            self.text += record.getMessage()
        return not is_mine

    def operation(self, error):
        """Returns the type and the place of the operation that failed.

        Args:
            error: what `tf.vectorized_map` raised.

        Returns:
            Two strings, or `None` if TensorFlow does not say.
        """
        text = str(error) + self.text
        op = re.search(r'^\s*op: "(\w+)"', text, re.MULTILINE)
        if op is None:
            return None
        # A derivative has the place of what it derives from.
        places = re.findall(r'(?:name|input): "loop_body/([^":]+)', text)
        inside = [place for place in places if "/" in place]
        return op[1], (inside or places or [""])[0]


def operations_without_xla(function):
    """Returns the types of operations that XLA cannot compile.

    Args:
        function: a concrete function.

    Returns:
        A sorted list of strings.
    """
    graph = function.graph.as_graph_def()
    node_lists = [graph.node, *(f.node_def for f in graph.library.function)]
    called_functions = {f.signature.name for f in graph.library.function}
    # A placeholder is an argument of the function.
    known = {"Placeholder", *called_functions}
    found = set()
    for nodes in node_lists:
        by_name = {node.name: node for node in nodes}
        for node in nodes:
            if node.op in known or node.op in found:
                continue
            if node.op not in _XLA_NEEDS_CONSTANTS:
                has_kernel = _has_xla_kernel(node.op)
            else:
                has_kernel = _has_constant_indices(node, by_name)
            if not has_kernel:
                found.add(node.op)
    return sorted(found)


def _has_constant_indices(node, by_name):
    """Returns whether the first inputs of a node are constants."""
    is_stitch = node.op == "DynamicStitch"
    pending = list(node.input[: node.attr["N"].i] if is_stitch else node.input)
    seen = set()
    while pending:
        name = pending.pop().partition(":")[0]
        if name.startswith("^") or name in seen:
            continue
        seen.add(name)
        # What is not there is an argument of the function.
        if name not in by_name or by_name[name].op == "Placeholder":
            return False
        if by_name[name].op not in _CONSTANTS:
            pending += by_name[name].input
    return True


@functools.cache
def _has_xla_kernel(op_type):
    from tensorflow.python.framework import kernels

    _register_xla_kernels()
    registered = kernels.get_registered_kernels_for_op(op_type).kernel
    devices = {kernel.device_type for kernel in registered}
    # A type without any kernel is a part of the graph, not an operation.
    return not devices or any(d.startswith("XLA_") for d in devices)


@functools.cache
def _register_xla_kernels():
    """Compiles a function, because TensorFlow then registers XLA's kernels."""
    with tf.init_scope():
        tf.function(lambda x: x + 1.0, jit_compile=True)(tf.constant(0.0))


def fetched(tensor, graph):
    """Returns a tensor of another graph as one of `graph`."""
    # It has one placeholder for all uses.
    is_function = isinstance(graph, FuncGraph)
    return graph.capture(tensor) if is_function else tf.identity(tensor)


def is_watched(tensors):
    """Returns whether a `tf.GradientTape` watches any of the tensors."""
    return record.should_record_backprop(tensors)


def custom_gradient(function):
    """`tf.custom_gradient` of tensors, with fewer operations and no leak.

    In a graph, TensorFlow looks for variables behind each call, and gives the
    arguments gradients of zeros, which nothing reads. It also registers a
    function for each call and never forgets it. The function holds the tensors
    of the graph, so each trace would stay in memory for ever, with the graphs
    around it. Here, variables that `function` reads get no gradient.

    Args:
        function: as for `tf.custom_gradient`, of tensors alone.
    """
    in_eager_execution = tf.custom_gradient(function)

    @functools.wraps(function)
    def call(*arguments):
        if tf.executing_eagerly():
            return in_eager_execution(*arguments)
        arguments = [tf.convert_to_tensor(t) for t in arguments]
        structure, gradient = function(*arguments)
        results = [tf.convert_to_tensor(t) for t in tf.nest.flatten(structure)]

        def backward(*d_results):
            return tf.nest.flatten(gradient(*d_results))

        graph = tf.compat.v1.get_default_graph()
        name = _register(graph, backward, len(results))
        with record.stop_recording():
            with graph.gradient_override_map({"IdentityN": name}):
                # The derivative of a loop or function finds the operation, and
                # through it the arguments. A tape knows the gradient itself.
                copies = tf.identity_n([*results, *arguments])[: len(results)]
        for result, copy in zip(results, copies):
            handle_data_util.copy_handle_data(result, copy)
        record.record_operation(name, copies, arguments, backward)
        return tf.nest.pack_sequence_as(structure, copies)

    return call


def _register(graph, backward, results):
    """Registers a gradient for as long as the graph, and returns its name."""
    name = f"KerasMamlGradient-{next(_numbers)}"

    def gradient(op, *d_outputs):
        del op
        return [None] * results + backward(*d_outputs[:results])

    while isinstance(graph, FuncGraph):
        # A function is derived in any of the graphs that it is traced in.
        if not hasattr(graph, "keras_maml_gradients"):
            graph.keras_maml_gradients = []
        graph.keras_maml_gradients.append(gradient)
        graph = graph.outer_graph
    reference = weakref.ref(gradient)
    tf.RegisterGradient(name)(lambda *args: reference()(*args))
    weakref.finalize(gradient, gradient_registry._registry.pop, name, None)
    return name


def call_with_captured(function, inputs, captured):
    """Calls a concrete function with other tensors from outside.

    Args:
        function: a concrete function.
        inputs: list of tensors, its arguments.
        captured: list of tensors, in the place of its `captured_inputs`.

    Returns:
        A list of tensors.
    """
    return function._call_flat(list(inputs), captured)


def stop_recording():
    """Returns a context in which no gradient tape of the thread records.

    With two tapes, TensorFlow would derive a loop where it is built.
    """
    return record.stop_recording()


def memory_limit(device):
    """Returns the bytes that TensorFlow may use of a device.

    Args:
        device: a `tf.config.LogicalDevice`.

    Returns:
        An int, or `None` if TensorFlow does not know.
    """
    context.context().ensure_initialized()
    devices = pywrap_tfe.TFE_ContextListDevices(context.context()._handle)
    for i in range(pywrap_tf_session.TF_DeviceListCount(devices)):
        name = pywrap_tf_session.TF_DeviceListName(devices, i)
        if name.endswith(device.name):
            limit = pywrap_tf_session.TF_DeviceListMemoryBytes(devices, i)
            return limit if limit > 0 else None
    return None


def called_graphs(operation):
    """Returns the graphs of the functions that an operation calls."""
    names = [
        value.func.name
        for value in operation.node_def.attr.values()
        if value.HasField("func")
    ]
    functions = map(operation.graph._get_function, names)
    return [function.graph for function in functions if function is not None]
