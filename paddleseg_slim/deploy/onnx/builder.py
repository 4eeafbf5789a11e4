"""What the functions of the writer write with: names, constants, nodes, and the table of the functions by op."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, Union

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from paddleseg_slim.errors import UserError
from paddleseg_slim.graph import Graph, Node, Value, infer_shapes
from paddleseg_slim.graph.host import HOST, SHAPE_OPS, is_host, run_host
from paddleseg_slim.graph.ir import slot_values, unique_name

DTYPES = {
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
    "float16": TensorProto.FLOAT16,
    "int64": TensorProto.INT64,
    "int32": TensorProto.INT32,
    "int16": TensorProto.INT16,
    "int8": TensorProto.INT8,
    "uint16": TensorProto.UINT16,
    "uint8": TensorProto.UINT8,
    "bool": TensorProto.BOOL,
}
"""ONNX element types by the graph's dtype names."""

Written = Union[str, Sequence[str]]


@dataclass(frozen=True)
class Size:
    """The sizes of the axes ``start`` to ``end`` of a value, known when the model runs."""

    value: Value
    start: int
    end: int


Number = Union[int, str, Size]
"""A known number, the name of an int64 ``[n]`` tensor, or the sizes of some axes."""

WriteFunction = Callable[["Builder", Node], Written]
F = TypeVar("F", bound=WriteFunction)

WRITERS: dict[str, WriteFunction] = {}
"""The function of each op: it adds ONNX nodes and returns the name of the tensor (or tensors) that they make."""


def writes(*ops: str) -> Callable[[F], F]:
    """Register the decorated function for ``ops``; `ValueError` when one has a function."""

    def add(function: F) -> F:
        for op in ops:
            if op in WRITERS:
                raise ValueError(f"op {op!r} has two functions")
            WRITERS[op] = function
        return function

    return add


class Builder:
    """The ONNX graph while it is written.

    Args:
        graph: what is written.
        tensors: an array for every parameter of ``graph``.
        shapes: shape of every input, -1 for a dynamic axis.
        opset: version of the ONNX operator set.
        int32_bias: write the bias of a quantized convolution as int32 with its own DequantizeLinear.
        signed_middle: write unsigned integers around their middle as signed ones around 0, the same numbers.
        integer_sizes: read the sizes of what is dequantized of its integers.

    Attributes:
        nodes: ONNX nodes so far, in order.
        initializers: constants so far, by name.
        same_size: tensor -> one of its size, of which its sizes are read.
        added_channels: value -> channels that its tensor has behind the last (see `channels`).
    """

    def __init__(
        self,
        graph: Graph,
        tensors: Mapping[str, np.ndarray],
        shapes: Sequence[Sequence[int]],
        opset: int,
        int32_bias: bool = False,
        signed_middle: bool = False,
        integer_sizes: bool = False,
    ) -> None:
        self.graph = graph
        self.opset = opset
        self.int32_bias, self.signed_middle, self.integer_sizes = int32_bias, signed_middle, integer_sizes
        self.same_size: dict[str, str] = {}
        self.added_channels: dict[Value, int] = {}
        self.nodes: list[NodeProto] = []
        self.initializers: dict[str, TensorProto] = {}
        self.cache: dict[Any, str] = {}
        self._tensors = tensors
        self._shapes = infer_shapes(graph, [tuple(shape) for shape in shapes])
        self._names: dict[Value, str] = {value: value.name for value in graph.inputs}
        self._arrays: dict[Value, np.ndarray | None] = {}
        self._used = {value.name for value in graph.values()} | {node.name for node in graph.nodes}

    def shape(self, value: Value) -> tuple[int, ...]:
        """Shape of a value, -1 for an axis that is not known."""
        return self._shapes.shape(value)

    def rank(self, value: Value) -> int:
        """Number of axes of a value."""
        return len(self.shape(value))

    def array(self, value: Value) -> np.ndarray | None:
        """The numbers of a value where they are constant: a parameter, or what is computed from constants alone."""
        if value not in self._arrays:
            self._arrays[value] = self._constant_array(value)
        return self._arrays[value]

    def _constant_array(self, value: Value) -> np.ndarray | None:
        if self.graph.parameter_name(value) is not None:
            return np.asarray(self._tensors[value.name])
        if value in self._shapes.host:
            return np.asarray(self._shapes.host[value])
        node = value.producer
        if node is None or node.op not in HOST or value is not node.out:
            return self._known_side(node) if node is not None and node.op in SHAPE_OPS else None
        if node.op == "slice":
            part = self._known_slice(node)
            if part is not None:
                return part
        inputs = {item: self.array(item) for item in node.input_values()}
        if any(array is None for array in inputs.values()):
            return None
        if not inputs and not is_host(node, ()):
            return None  # a large constant: its own function writes it
        return run_host(node, inputs.__getitem__, lambda item: self.shape(item)).astype(value.dtype)

    def _known_side(self, node: Node) -> np.ndarray | None:
        shape = self.shape(node.input_values()[0])
        return None if -1 in shape else run_host(node, lambda _: None, lambda _: shape)

    def _known_slice(self, node: Node) -> np.ndarray | None:
        """Some axes of a shape may be known where others are not: ``x.shape[1]`` of a dynamic image."""
        source = node.value("input").producer
        if source is None or source.op not in ("shape", "shape64"):
            return None
        shape = np.array(self.shape(source.input_values()[0]))
        if any(isinstance(node.inputs.get(name), (Value, list)) for name in ("starts", "ends")):
            return None
        part = run_host(node, lambda _: shape, lambda _: ())
        return None if -1 in part else part.astype(node.out.dtype)

    def ref(self, value: Value) -> str:
        """Name of the tensor that holds ``value``; parameters, constants and shapes are written when first asked for.

        Raises:
            UserError: an op has no function.
        """
        if value not in self._names:
            array = self.array(value)
            if array is not None:
                name = value.name if self.graph.parameter_name(value) else None
                self._names[value] = self.constant(array.astype(value.dtype, copy=False), name)
            else:
                assert value.producer is not None, value
                self.write(value.producer)
        return self._names[value]

    def refs(self, node: Node, *arguments: str) -> list[str]:
        """Names of the tensors at several arguments of a node."""
        return [self.ref(node.value(argument)) for argument in arguments]

    def write(self, node: Node) -> None:
        """Write a node of the graph through the function of its op."""
        if node.op not in WRITERS:
            raise UserError(
                f"ONNX export lacks the op {node.op!r} (node {node.name!r}).",
                "Export to Paddle Inference instead, or add a function for it in paddleseg_slim/deploy/onnx.",
            )
        written = WRITERS[node.op](self, node)
        names = [written] if isinstance(written, str) else list(written)
        self._names.update(zip(node.output_values(), names))

    def bind(self, value: Value, name: str) -> None:
        """Say that the tensor called ``name`` holds ``value``."""
        self._names[value] = name

    def knows(self, value: Value) -> bool:
        """Whether a tensor holds ``value`` already."""
        return value in self._names

    def constant(self, array: np.ndarray, name: str | None = None) -> str:
        """Write a constant called ``name`` and return the name; without one, equal small constants are written once."""
        if name is None:
            key = (array.dtype.str, array.shape, array.tobytes()) if array.size <= 64 else None
            if key in self.cache:
                return self.cache[key]
            name = self.unique("constant")
            if key is not None:
                self.cache[key] = name
        self.initializers[name] = numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
        return name

    def integers(self, values: Sequence[int]) -> str:
        """Name of an int64 constant ``[n]``."""
        return self.constant(np.array(values, np.int64).reshape(-1))

    def scalar(self, number: float, dtype: str = "float32") -> str:
        """Name of a constant of no axes."""
        return self.constant(np.array(number, np.dtype(dtype)))

    def unique(self, wanted: str) -> str:
        """``wanted``, numbered when a value or node has that name."""
        return unique_name(wanted, self._used)

    def op(
        self,
        kind: str,
        inputs: Sequence[str],
        node: Node,
        *,
        last: bool = False,
        domain: str = "",
        output: str | None = None,
        **attrs: Any,
    ) -> str:
        """Add an ONNX node with one output.

        Args:
            kind: ONNX operator.
            inputs: names of its inputs, "" for one left out.
            node: the graph's node that it belongs to, for its name.
            last: it makes the first output of ``node`` and takes its names.
            domain: of the operator.
            output: name of the output when it is not that of ``node``.
            attrs: attributes; those that are None are left out.

        Returns:
            the name of the output.
        """
        name = node.name if last else self.unique(f"{node.name}/{kind}")
        result = output or (node.out.name if last else name)
        attrs = {key: value for key, value in attrs.items() if value is not None}
        self.nodes.append(helper.make_node(kind, list(inputs), [result], name, domain=domain, **attrs))
        return result

    def split(self, inputs: Sequence[str], node: Node, axis: int) -> list[str]:
        """Add a Split into the outputs of ``node``."""
        names = [value.name for value in node.output_values()]
        parts = {"num_outputs": len(names)} if self.opset >= 18 and len(inputs) == 1 else {}
        self.nodes.append(helper.make_node("Split", list(inputs), names, node.name, axis=axis, **parts))
        return names

    def cast(self, name: str, node: Node, dtype: str) -> str:
        """Add a Cast."""
        return self.op("Cast", [name], node, to=DTYPES[dtype])

    def known(self, node: Node, argument: str, default: Any = None) -> Any:
        """An argument that must be constant: an attribute, or an input computed from constants (as a NumPy array).

        Raises:
            UserError: it depends on the size of the input.
        """
        slot = node.inputs.get(argument)
        if slot is None:
            value = node.attrs.get(argument)
            return default if value is None else value
        arrays = [self.array(value) for value in slot_values(slot)]
        if any(array is None for array in arrays):
            raise UserError(
                f"{argument!r} of node {node.name!r} ({node.op}) depends on the input size; ONNX wants it fixed.",
                "Give a fixed --input_shape.",
            )
        if isinstance(slot, list):
            return np.array([np.asarray(array).reshape(-1)[0] for array in arrays])
        return arrays[0]

    def known_integers(self, node: Node, argument: str, default: Sequence[int] = ()) -> list[int]:
        """An argument of constant integers as a list."""
        return [int(item) for item in np.asarray(self.known(node, argument, list(default))).reshape(-1)]

    def numbers(self, node: Node, argument: str) -> list[Number]:
        """An argument of integers, item by item: the number where known, else what makes an int64 ``[1]`` tensor.

        A single tensor of unknown numbers comes as one name for all of them.
        """
        slot = node.inputs.get(argument)
        if slot is None:
            return [int(item) for item in np.asarray(node.attrs[argument]).reshape(-1)]
        items: list[Number] = []
        for value in map(_uncast, slot_values(slot)):
            array = self.array(value)
            if array is not None:
                items += [int(number) for number in array.reshape(-1)]
            elif value.producer is not None and value.producer.op in ("stack", "concat") and self.rank(value) == 1:
                inner = Node(node.name, node.op, {"items": value.producer.inputs["x"]}, {})
                items += self.numbers(inner, "items")
            else:
                items.append(_axis_of(value) or self._as_int64_list(value, node))
        return items

    def _as_int64_list(self, value: Value, node: Node) -> str:
        key = ("int64", value)
        if key not in self.cache:
            name = self.ref(value)
            if value.dtype != "int64":
                name = self.cast(name, node, "int64")
            if self.rank(value) != 1:
                name = self.op("Reshape", [name, self.integers([-1])], node)
            self.cache[key] = name
        return self.cache[key]

    def join(self, items: Sequence[Number], node: Node) -> str:
        """Name of one int64 ``[n]`` tensor made of numbers and tensors (see `numbers`)."""
        parts: list[str] = []
        for item in _merged(items):
            if isinstance(item, list):
                parts.append(self.integers(item))
            else:
                parts.append(item if isinstance(item, str) else self.sizes(item, node))
        if len(parts) == 1:
            return parts[0]
        key = ("join", tuple(parts))
        if key not in self.cache:
            self.cache[key] = self.op("Concat", parts, node, axis=0)
        return self.cache[key]

    def dims(self, value: Value, start: int, end: int, node: Node) -> list[Number]:
        """Sizes of the axes ``start`` to ``end`` of a value: numbers where all are known, else one tensor."""
        sizes = self.shape(value)[start:end]
        return [self.sizes(Size(value, start, end), node)] if -1 in sizes else list(sizes)

    def sizes(self, item: Size, node: Node) -> str:
        """Name of the sizes of some axes as int64 ``[n]``, read once for all who ask."""
        if item not in self.cache:
            self.cache[item] = self.shape_slice(self.ref(item.value), item.start, item.end, self.rank(item.value), node)
        return self.cache[item]

    def sized(self, value: Value) -> str:
        """Name of a tensor of the size of ``value``, for a Shape or a Size."""
        name = self.ref(value)
        return self.same_size.get(name, name)

    def shape_slice(self, tensor: str, start: int, end: int, rank: int, node: Node) -> str:
        """Add nodes that read the sizes of the axes ``start`` to ``end`` of a tensor as int64 ``[n]``."""
        tensor = self.same_size.get(tensor, tensor)
        if self.opset >= 15:
            bounds: dict[str, Any] = {
                key: value for key, value, full in (("start", start, 0), ("end", end, rank)) if value != full
            }
            return self.op("Shape", [tensor], node, **bounds)
        whole = self.op("Shape", [tensor], node)
        if (start, end) == (0, rank):
            return whole
        return self.op("Slice", [whole, self.integers([start]), self.integers([end])], node)


def _uncast(value: Value) -> Value:
    """The value behind casts from one integer type to another, which change nothing where sizes are wanted."""
    node = value.producer
    while node is not None and node.op == "cast" and all("int" in item.dtype for item in (value, node.value("x"))):
        value = node.value("x")
        node = value.producer
    return value


def _axis_of(value: Value) -> Size | None:
    """The axis whose size ``value`` is, where it was sliced out of a shape: ``x.shape[2:][0]`` is axis 2 of x."""
    node, axis, single = _uncast(value).producer, 0, False
    while node is not None and node.op == "slice":
        if list(node.attrs["axes"]) != [0] or any(node.inputs.get(name) is not None for name in ("starts", "ends")):
            return None
        low, high = (int(np.asarray(node.attrs[name]).reshape(-1)[0]) for name in ("starts", "ends"))
        if low < 0 or not (single or high - low == 1):
            return None
        axis, single = axis + low, True
        node = _uncast(node.value("input")).producer
    if not single or node is None or node.op not in ("shape", "shape64"):
        return None
    return Size(node.input_values()[0], axis, axis + 1)


def _merged(items: Sequence[Number]) -> list[list[int] | str | Size]:
    """Known numbers that follow each other as one list, axes of one value that follow each other as one `Size`."""
    result: list[list[int] | str | Size] = []
    for item in items:
        last = result[-1] if result else None
        if isinstance(item, int):
            if isinstance(last, list):
                last.append(item)
            else:
                result.append([item])
        elif isinstance(item, Size) and isinstance(last, Size) and (last.value, last.end) == (item.value, item.start):
            result[-1] = Size(last.value, last.start, item.end)
        else:
            result.append(item)
    return result
