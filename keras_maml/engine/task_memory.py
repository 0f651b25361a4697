"""How many tasks fit the memory of a GPU or TPU at the same time."""

import tensorflow as tf

from keras_maml import tensorflow_internals

# The part of the memory that tasks may need. Weights, optimizer, data and what
# the allocator loses need the rest.
_SHARE = 0.5

# Without a known limit, as many as XLA gets on a CPU.
_DEFAULT = 32

# Their outputs are their inputs.
_ALIASES = {
    "EnsureShape",
    "ExpandDims",
    "Identity",
    "IdentityN",
    "Reshape",
    "Squeeze",
    "StopGradient",
}


def tasks_that_fit(graph: tf.Graph, device: tf.config.LogicalDevice) -> int:
    """Returns how many tasks a device has memory for, at least 1.

    Args:
        graph: the graph of one task.
        device: a device.
    """
    limit = tensorflow_internals.memory_limit(device)
    if limit is None:
        return _DEFAULT
    return max(1, int(_SHARE * limit) // max(1, peak_bytes(graph)))


def peak_bytes(graph: tf.Graph) -> int:
    """Returns the bytes of a graph's tensors that are needed at one time.

    The operations run in the order in which they were made, and a tensor is
    freed after its last use. XLA keeps less: it merges operations and does not
    write what is between them.
    """
    operations = graph.get_operations()
    origins: dict[int, tf.Tensor] = {}
    last_uses: dict[int, int] = {}
    for number, operation in enumerate(operations):
        for i, tensor in enumerate(operation.inputs):
            origin = origins.get(id(tensor), tensor)
            last_uses[id(origin)] = number
            if operation.type in _ALIASES and i < len(operation.outputs):
                origins[id(operation.outputs[i])] = origin
    for tensor in getattr(graph, "outputs", ()):
        last_uses[id(origins.get(id(tensor), tensor))] = len(operations)
    freed: dict[int, int] = {}
    now = peak = 0
    for number, operation in enumerate(operations):
        for tensor in operation.outputs:
            last_use = last_uses.get(id(tensor), number)
            if id(tensor) not in origins:
                now += _bytes(tensor)
                freed[last_use] = freed.get(last_use, 0) + _bytes(tensor)
        graphs = tensorflow_internals.called_graphs(operation)
        inside = max(map(peak_bytes, graphs), default=0)
        peak = max(peak, now + inside)
        now -= freed.pop(number, 0)
    return peak


def _bytes(tensor):
    if tensor.dtype in (tf.resource, tf.variant, tf.string):
        return 0
    # An unknown number of examples counts as one.
    sizes = [size or 1 for size in tensor.shape] if tensor.shape.rank else []
    total = tensor.dtype.size
    for size in sizes:
        total *= size
    return total
