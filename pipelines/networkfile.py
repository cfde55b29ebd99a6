"""The ONNX file is looked at before ONNX Runtime sees it: known operators, no other file, no code, and memory that is known beforehand."""

from __future__ import annotations

import math
from typing import Any

from pipelines.errors import ExpostError, must

#: Operators that depend on their inputs alone, open nothing and end: no loops, no branches, no random numbers, no strings. What networks
#: are exported to; another one must be added here with thought for what it may allocate or read.
OPERATORS = (
    *("Abs", "Add", "And", "AveragePool", "BatchNormalization", "Cast", "Ceil", "Clip", "Concat", "Conv", "Cos", "Div", "Einsum", "Elu"),
    *("Equal", "Erf", "Exp", "Expand", "Flatten", "Floor", "Gather", "GatherElements", "Gelu", "Gemm", "GlobalAveragePool", "Greater"),
    *(
        "GreaterOrEqual",
        "GroupNormalization",
        "HardSigmoid",
        "HardSwish",
        "Identity",
        "InstanceNormalization",
        "IsNaN",
        "LayerNormalization",
    ),
    *("LeakyRelu", "Less", "LessOrEqual", "Log", "LogSoftmax", "MatMul", "Max", "MaxPool", "Min", "Mish", "Mul", "Neg", "Not", "Or", "Pad"),
    *("Pow", "PRelu", "Reciprocal", "ReduceL2", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "Relu", "Reshape"),
    *("Selu", "Shape", "Sigmoid", "Sign", "Sin", "Slice", "Softmax", "Softplus", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Swish", "Tanh"),
    *("Tile", "Transpose", "Unsqueeze", "Where"),
)
#: Attributes that are text, and what they may say.
TEXTS = {"approximate": ("none", "tanh"), "auto_pad": ("NOTSET",), "mode": ("constant", "edge", "reflect")}
IMAGE = "image"  #: (n, C, H, W) uint8; all other inputs are tables (n, F)
INPUTS, OUTPUTS = {"numbers", "categories", "text", IMAGE}, {"logits", "embedding"}
#: The logits of each network, where there are several: (n, M, K).
EACH = "each"
#: Most operators, and most numbers that all inner values together may hold for one batch: 4 GB of them.
MOST_OPERATORS, MOST_NUMBERS = 10_000, 1 << 30
REMEDY = "Do not use this file; train again with `dvc repro train`, or fetch it again."


class RefusedError(ExpostError):
    """A file that is not used; `reason` says what is wrong with it."""

    remedy = REMEDY

    def __init__(self, reason: str) -> None:
        super().__init__(str(must("model.onnx must load in ONNX Runtime as a network that expost exports", reason, self.remedy)))
        self.reason = reason


class TooLargeError(RefusedError):
    """A network that takes more memory than scoring may use, whatever the batch."""

    remedy = "Train a smaller one: fewer networks (split.folds), narrower (train.network), or smaller images (ingest.image.size)."


def check(content: bytes, batch: int) -> int:
    """Number of rows to score at once: `batch`, or fewer where a row takes much memory, as a large image does in several networks.

    Raises RefusedError unless `content` is a network of known operators that holds all its weights and needs bounded memory for as many rows.
    """
    import onnx

    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf is a library of onnx's, not of ours
        if type(error).__name__ != "DecodeError":
            raise
        raise RefusedError("it is no ONNX file") from error
    _check_graph(model)
    for tensor in model.graph.initializer:
        _check_weights(tensor)
    batch = max(1, batch // _tiles(model))
    while (numbers := _numbers(model, batch)) > MOST_NUMBERS and batch > 1:
        batch //= 2
    if numbers > MOST_NUMBERS:
        raise TooLargeError(f"its inner values would hold {numbers:.3g} numbers for a single row, more than {MOST_NUMBERS}")
    return batch


def _tiles(model: Any) -> int:
    """How many images of 32 x 32 pixels a row's image is as large as, at least 1."""
    found = next((item for item in model.graph.input if item.name == IMAGE), None)
    pixels = math.prod(max(1, int(dim.dim_value)) for dim in found.type.tensor_type.shape.dim[2:]) if found is not None else 1
    return max(1, math.ceil(pixels / 1024))


def _check_graph(model: Any) -> None:
    from onnx import AttributeProto

    graph = model.graph
    if model.functions or model.training_info or graph.sparse_initializer or graph.quantization_annotation:
        raise RefusedError("it holds functions, training or sparse weights")
    if [item.domain for item in model.opset_import] != [""]:
        raise RefusedError("it asks for operators beyond the standard ones")
    if len(graph.node) > MOST_OPERATORS:
        raise RefusedError(f"it has {len(graph.node)} operators, more than {MOST_OPERATORS}")
    odd = sorted({f"{node.domain}:{node.op_type}"[:60] for node in graph.node if node.domain or node.op_type not in OPERATORS})
    if odd:
        raise RefusedError(f"it uses operators beyond those exported: {odd[:5]}")
    plain = {AttributeProto.FLOAT, AttributeProto.INT, AttributeProto.FLOATS, AttributeProto.INTS}
    for node in graph.node:
        for attribute in node.attribute:
            known = attribute.type in plain or (attribute.type == AttributeProto.STRING and _says_known(attribute))
            if not known or attribute.ref_attr_name:
                raise RefusedError(f"the operator {node.op_type} has an attribute, {attribute.name[:40]}, that is no number")
    inputs, outputs = [item.name for item in graph.input], [item.name for item in graph.output]
    if (
        not inputs
        or not set(inputs) <= INPUTS
        or len(set(inputs)) < len(inputs)
        or set(outputs) - {EACH} != OUTPUTS
        or len(set(outputs)) < len(outputs)
    ):
        raise RefusedError(f"its inputs and outputs are {inputs[:5]} and {outputs[:5]}")


def _says_known(attribute: Any) -> bool:
    return attribute.s in [text.encode() for text in TEXTS.get(attribute.name, ())]


def _check_weights(tensor: Any) -> None:
    """Weights stand in the file itself, all of them and no more."""
    from onnx import TensorProto

    width = {TensorProto.FLOAT: 4, TensorProto.DOUBLE: 8, TensorProto.INT64: 8, TensorProto.BOOL: 1}.get(tensor.data_type)
    if tensor.data_location != TensorProto.DEFAULT or tensor.external_data:
        raise RefusedError("its weights stand in another file")
    if width is None or min(tensor.dims, default=1) < 0 or math.prod(tensor.dims) * width != len(tensor.raw_data):
        raise RefusedError("weights have not the size that they say")


def _numbers(model: Any, batch: int) -> int:
    """How many numbers all inner values together hold for a batch of rows; each has a known size, whatever the file says of it, else RefusedError."""
    from onnx import shape_inference

    tried = type(model)()
    tried.CopyFrom(model)
    tried.graph.ClearField("value_info")
    for value in (*tried.graph.input, *tried.graph.output):
        dims = value.type.tensor_type.shape.dim
        if value.type.WhichOneof("value") != "tensor_type" or len(dims) != {EACH: 3, IMAGE: 4}.get(value.name, 2):
            raise RefusedError("an input or output is no table")
        if value.name in INPUTS:
            dims[0].dim_value = batch
        else:
            value.type.tensor_type.ClearField("shape")
    try:
        inferred = shape_inference.infer_shapes(tried, check_type=True, strict_mode=True, data_prop=True).graph
    except (shape_inference.InferenceError, ValueError, RuntimeError) as error:
        raise RefusedError(f"its sizes do not fit each other: {str(error)[:200]}") from error
    sizes = {value.name: _size(value) for value in (*inferred.input, *inferred.value_info, *inferred.output)}
    made = [sizes.get(name) for node in inferred.node for name in node.output]
    known = [size for size in (*made, *(sizes[name] for name in INPUTS if name in sizes)) if size is not None]
    if len(known) < len(made) + len(inferred.input):
        raise RefusedError("it does not say how large an inner value is")
    return sum(known)


def _size(value: Any) -> int | None:
    dims = value.type.tensor_type.shape.dim
    if not value.type.tensor_type.HasField("shape") or any(not dim.HasField("dim_value") or dim.dim_value < 0 for dim in dims):
        return None
    return math.prod(int(dim.dim_value) for dim in dims)
