"""What each node of an ONNX file costs at one input size: multiply-accumulates and bytes moved."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import NodeProto, TensorProto, helper

from paddleseg_slim.errors import UserError

Shape = tuple[int, ...]


@dataclass(frozen=True)
class OnnxNodeCost:
    """One node of the file.

    Attributes:
        name: its name, that of the graph's node where this package wrote the file.
        op: ONNX operator.
        inputs: names of the tensors that it reads.
        outputs: names of the tensors that it makes.
        macs: multiply-accumulate operations; None where a shape could not be told.
        bytes: of everything that it reads and writes, weights included; None where a shape could not be told.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    macs: int | None
    bytes: int | None


def _conv(shapes: Sequence[Shape], out: Shape) -> int:
    return math.prod(out) * math.prod(shapes[1][1:])


def _conv_transpose(shapes: Sequence[Shape], out: Shape) -> int:
    return math.prod(shapes[0]) * math.prod(shapes[1][1:])


def _matmul(shapes: Sequence[Shape], out: Shape) -> int:
    return math.prod(out) * shapes[0][-1]


_MACS: dict[str, Callable[[Sequence[Shape], Shape], int]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "MatMul": _matmul,
    "Gemm": _matmul,
}


def onnx_costs(path: Path, input_shape: Sequence[int]) -> list[OnnxNodeCost]:
    """Count every node of the file with its first input at ``input_shape``.

    Raises:
        UserError: the file is no ONNX model or does not take this shape.
    """
    try:
        model = onnx.load(str(path))
        _fix(model, input_shape)
        model = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except (onnx.onnx_cpp2py_export.shape_inference.InferenceError, DecodeError, OSError, ValueError) as error:
        raise UserError(
            f"The shapes of {path} at input {list(input_shape)} cannot be told: {error}", "Give another --input_shape."
        ) from error
    graph = model.graph
    known = {item.name: _tensor(item.type.tensor_type) for item in [*graph.input, *graph.value_info, *graph.output]}
    known |= {item.name: (tuple(item.dims), item.data_type) for item in graph.initializer}
    return [_cost(node, known) for node in graph.node]


def input_sides(path: Path) -> list[int]:
    """Lengths of the first input of an ONNX file; -1 for any length.

    Raises:
        UserError: the file is no ONNX model.
    """
    try:
        return _sides(onnx.load(str(path), load_external_data=False))
    except (DecodeError, OSError, ValueError, IndexError) as error:
        raise UserError(f"{path} cannot be read as an ONNX model: {error}", "Export the model again.") from error


def _sides(model: onnx.ModelProto) -> list[int]:
    sides = model.graph.input[0].type.tensor_type.shape.dim
    return [side.dim_value if side.HasField("dim_value") else -1 for side in sides]


def _fix(model: onnx.ModelProto, input_shape: Sequence[int]) -> None:
    own = _sides(model)
    if len(own) != len(input_shape) or any(side not in (-1, size) for side, size in zip(own, input_shape)):
        raise UserError(f"The model takes {own}, not {list(input_shape)}.", "Give another --input_shape.")
    for side, size in zip(model.graph.input[0].type.tensor_type.shape.dim, input_shape):
        side.dim_value = int(size)


def _tensor(kind: onnx.TypeProto.Tensor) -> tuple[Shape | None, int]:
    sides = kind.shape.dim
    known = kind.HasField("shape") and all(side.HasField("dim_value") for side in sides)
    return (tuple(side.dim_value for side in sides) if known else None), kind.elem_type


def _cost(node: NodeProto, known: dict[str, tuple[Shape | None, int]]) -> OnnxNodeCost:
    names = [name for name in [*node.input, *node.output] if name]
    tensors = [known.get(name, (None, TensorProto.UNDEFINED)) for name in names]
    macs: int | None = 0
    total: int | None = None
    if all(shape is not None for shape, _ in tensors):
        total = sum(math.prod(shape or ()) * helper.tensor_dtype_to_np_dtype(kind).itemsize for shape, kind in tensors)
    if node.op_type in _MACS:
        shapes = [known.get(name, (None, 0))[0] for name in [*node.input[:2], node.output[0]]]
        complete = [shape for shape in shapes if shape is not None]
        macs = _MACS[node.op_type](complete[:2], complete[2]) if len(complete) == 3 else None
    return OnnxNodeCost(node.name, node.op_type, tuple(node.input), tuple(node.output), macs, total)
