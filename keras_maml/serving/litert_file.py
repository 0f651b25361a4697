"""What a LiteRT file holds: its operations, and the type of its weights."""

import collections

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

# The types in which a file may hold its weights.
WEIGHT_TYPES = ("float32", "float16", "int8")

# Smaller arrays, such as biases, stay as they are.
_MIN_ELEMENTS = 512

_NAMES = {
    number: name
    for name, number in vars(schema.BuiltinOperator).items()
    if not name.startswith("_")
}


def operations(content):
    """Returns how often a file has each operation, by signature.

    Args:
        content: bytes, the file.

    Returns:
        A dict from the name of a signature to a `Counter` of names such as
        `"CONV_2D"`. An operation that is not built in has the name
        `"CUSTOM "` and its own.
    """
    model = _read(content)
    codes = [_name(code) for code in model.operatorCodes]
    return {
        signature.signatureKey.decode(): collections.Counter(
            codes[operator.opcodeIndex]
            for operator in model.subgraphs[signature.subgraphIndex].operators
        )
        for signature in model.signatureDefs
    }


def finished(content, weight_type):
    """Returns a smaller file of the same operations.

    Names of tensors are left out, and large constants have another type. The
    first operations of a signature bring the constants back to float32, so all
    that is computed is computed in float32.

    Args:
        content: bytes, a file with weights in float32.
        weight_type: string, one of `WEIGHT_TYPES`. With `"int8"`, the numbers
            of the last axis, such as the filters of a convolution, each have
            a scale of their own.
    """
    model = _read(content)
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            # A signature has names of its own for what goes in and out.
            tensor.name = b""
    if weight_type != "float32":
        _store(model, weight_type)
    return _written(model)


def _store(model, weight_type):
    stored = {}
    code = schema.OperatorCodeT()
    code.builtinCode = schema.BuiltinOperator.DEQUANTIZE
    code.deprecatedBuiltinCode = schema.BuiltinOperator.DEQUANTIZE
    # 5 is the version that takes a scale for each filter.
    code.version = 5
    model.operatorCodes.append(code)
    for graph in model.subgraphs:
        first = []
        for i, tensor in enumerate(list(graph.tensors)):
            if not _is_weight(model, tensor, weight_type):
                continue
            # All signatures share the numbers. Tensors of other shapes may
            # share them too, but not their scales.
            scales = int(tensor.shape[-1]) if weight_type == "int8" else 0
            key = tensor.buffer, scales
            if key not in stored:
                stored[key] = len(model.buffers)
                model.buffers.append(schema.BufferT())
            new = stored[key]
            first.append(_dequantized(model, graph, i, new, weight_type))
        graph.operators = first + list(graph.operators)
    used = {t.buffer for graph in model.subgraphs for t in graph.tensors}
    for buffer, _ in stored:
        if buffer not in used:
            model.buffers[buffer].data = None


def check_runs(content):
    """Raises `ValueError` if LiteRT's interpreter cannot run a file."""
    interpreter = Interpreter(model_content=content, num_threads=1)
    for name in interpreter.get_signature_list():
        try:
            runner = interpreter.get_signature_runner(name)
            runner(
                **{
                    key: np.zeros(detail["shape"], detail["dtype"])
                    for key, detail in runner.get_input_details().items()
                }
            )
        except RuntimeError as error:
            raise ValueError(
                "LiteRT has all operations of the model, but cannot run them. "
                f"Received: signature {name!r}, which fails with: {error}"
            ) from error


def _read(content):
    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))


def _written(model):
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _name(code):
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    if number == schema.BuiltinOperator.CUSTOM:
        return f"CUSTOM {code.customCode.decode()}"
    return _NAMES[number]


def _is_weight(model, tensor, weight_type):
    data = model.buffers[tensor.buffer].data
    if (
        tensor.type != schema.TensorType.FLOAT32
        or data is None
        or len(data) < 4 * _MIN_ELEMENTS
    ):
        return False
    # A scale has 12 bytes with its zero point. A bias would grow.
    elements = len(data) // 4
    return weight_type != "int8" or elements > 4 * int(tensor.shape[-1])


def _dequantized(model, graph, position, buffer, weight_type):
    """Adds a tensor of another type; returns what makes the old one of it.

    Args:
        model: the file.
        graph: the graph of a signature.
        position: int, the tensor in the graph.
        buffer: int, the buffer of the new tensor.
        weight_type: string, one of `WEIGHT_TYPES`.
    """
    tensor = graph.tensors[position]
    shape = [int(size) for size in tensor.shape]
    data = bytes(model.buffers[tensor.buffer].data)
    values = np.frombuffer(data, "<f4").reshape(shape)
    new = schema.TensorT()
    new.shape = shape
    new.buffer = buffer
    if weight_type == "float16":
        new.type = schema.TensorType.FLOAT16
        numbers = values.astype("<f2")
    else:
        new.type = schema.TensorType.INT8
        numbers, new.quantization = _quantized(values)
    model.buffers[new.buffer].data = np.frombuffer(numbers.tobytes(), "u1")
    graph.tensors.append(new)
    tensor.buffer = 0
    operator = schema.OperatorT()
    operator.opcodeIndex = len(model.operatorCodes) - 1
    operator.inputs = [len(graph.tensors) - 1]
    operator.outputs = [position]
    return operator


def _quantized(values):
    """Returns int8 numbers, and their scale for each element of an axis."""
    axis = values.ndim - 1
    others = tuple(range(axis))
    scale = np.maximum(np.abs(values).max(others), 1e-12) / 127
    numbers = np.clip(np.round(values / scale), -127, 127).astype("i1")
    quantization = schema.QuantizationParametersT()
    quantization.scale = scale.astype("f4")
    quantization.zeroPoint = np.zeros(len(scale), "i8")
    quantization.quantizedDimension = axis
    return numbers, quantization
