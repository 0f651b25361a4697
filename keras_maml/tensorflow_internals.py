"""The private names of TensorFlow about programs: vectorized, compiled, freed.

`tests/tensorflow_internals_test.py` has a test for each name, as
`keras_internals.py` has.
"""

import functools
import itertools
import logging
import re
import threading
import weakref

import tensorflow as tf
from tensorflow.python.eager import record
from tensorflow.python.framework.func_graph import FuncGraph
from tensorflow.python.framework.ops import gradient_registry
from tensorflow.python.ops import handle_data_util

# XLA compiles these only for indices that are constants; what TensorFlow makes
# of a vectorized `tf.cond` has others.
_XLA_NEEDS_CONSTANTS = {"DynamicPartition", "DynamicStitch"}

# For the names of gradients.
_numbers = itertools.count()


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
    op_types = {node.op for nodes in node_lists for node in nodes}
    called_functions = {f.signature.name for f in graph.library.function}
    # A placeholder is an argument of the function.
    op_types -= {"Placeholder", *called_functions}
    return sorted(
        op
        for op in op_types
        if op in _XLA_NEEDS_CONSTANTS or not _has_xla_kernel(op)
    )


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


def call_with_captures(function, tensors, captures):
    """Calls a concrete function with other captured tensors.

    Args:
        function: a concrete function that takes a list of tensors.
        tensors: list of tensors.
        captures: list of tensors, in the place of
            `function.captured_inputs`.
    """
    return function._call_flat(tensors, captures)


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
