"""Shapes of every value for given input shapes, by Paddle's own inference: ops are built, nothing is computed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import paddle

from paddleseg_slim import compat
from paddleseg_slim.errors import UserError
from paddleseg_slim.graph.dispatch import INTS, SCALAR, Call, call_of, constant_argument, result_values
from paddleseg_slim.graph.host import as_integers, as_scalar, is_host, run_host
from paddleseg_slim.graph.ir import Graph, Node, Value, slot_values


class DataDependent(UserError):
    """A shape or a decision depends on the numbers in a tensor, so no graph can hold it."""


class ShapeRun:
    """Shape inference over a graph, node by node and only as far as asked, for fixed input shapes.

    Args:
        feeds: shape of every value that is given: the inputs of the graph or of a part of it.
        parameters: values whose own shape holds: the parameters of the graph.
    """

    def __init__(self, feeds: Mapping[Value, tuple[int, ...]], parameters: Iterable[Value] = ()) -> None:
        self.program = paddle.static.Program()
        self.host: dict[Value, np.ndarray] = {}
        self._meta: dict[Value, Any] = {}
        self._partly: dict[Value, np.ndarray] = {}
        with compat.building(self.program):
            for value, shape in feeds.items():
                self._feed(value, shape)
        self._free = set(parameters)

    def allow(self, parameters: Iterable[Value]) -> None:
        """Add parameters that became known meanwhile."""
        self._free.update(parameters)

    def _feed(self, value: Value, shape: tuple[int, ...]) -> None:
        self._meta[value] = compat.placeholder(f"v{len(self._meta)}", shape, value.dtype)

    def _known(self, value: Value) -> bool:
        return value in self._meta or value in self.host

    def shape(self, value: Value) -> tuple[int, ...]:
        """The shape of ``value``; -1 where it depends on data."""
        self.need([value])
        return tuple(self.host[value].shape) if value in self.host else compat.pir_shape(self._meta[value])

    def dtype(self, value: Value) -> str:
        """The data type of ``value``."""
        self.need([value])
        return str(self.host[value].dtype) if value in self.host else compat.dtype_name(self._meta[value].dtype)

    def host_value(self, value: Value) -> np.ndarray:
        """The number(s) that ``value`` holds.

        Raises:
            DataDependent: it is not computed from shapes alone.
        """
        self.need([value])
        if value not in self.host:
            raise DataDependent(
                f"{value.name!r} decides something in the model and depends on the data of a tensor.",
                "Replace the Python decision by tensor operations, or capture the sub-layers around it.",
            )
        return self.host[value]

    def need(self, values: Iterable[Value]) -> None:
        """Infer whatever ``values`` need and was not inferred yet."""
        pending = [value for value in values if not self._known(value)]
        if not pending:
            return
        with compat.building(self.program):
            while pending:
                value = pending[-1]
                if self._known(value):
                    pending.pop()
                elif value.producer is None:
                    if value not in self._free:
                        raise KeyError(f"no shape is given for {value!r}")
                    self._feed(value, value.shape)
                else:
                    missing = [item for item in value.producer.input_values() if not self._known(item)]
                    pending.extend(missing)
                    if not missing:
                        self._infer(value.producer)

    def _infer(self, node: Node) -> None:
        if is_host(node, self.host):
            shape = self.shape(node.input_values()[0]) if node.input_values() else ()
            if -1 not in shape:
                self.host[node.out] = run_host(node, self.host.__getitem__, self.shape)
                return
        part = self._sizes(node)
        if part is not None:
            if -1 not in part:
                self.host[node.out] = part
                return
            self._partly[node.out] = part
        node = sized(node, self.host)
        for value, result in result_values(node, build(node, call_of(node), self._argument)):
            self._meta[value] = result

    def _sizes(self, node: Node) -> np.ndarray | None:
        """What is known of a shape or of a slice of one: ``x.shape[1:]`` where the batch is open; -1 for the rest."""
        if node.op in ("shape", "shape64"):
            return np.array(self.shape(node.input_values()[0]), node.out.dtype)
        source = node.inputs.get("input") if node.op == "slice" else None
        bounds = [slot for name in ("starts", "ends") for slot in slot_values(node.inputs.get(name) or [])]
        if not isinstance(source, Value) or source not in self._partly or bounds:
            return None
        return np.asarray(run_host(node, self._partly.__getitem__, self.shape)).astype(node.out.dtype)

    def _argument(self, value: Value, kind: str) -> Any:
        if value in self.host:
            if kind in (INTS, SCALAR):
                return as_scalar(self.host[value]) if kind == SCALAR else as_integers(self.host[value])
            if value not in self._meta:
                self._meta[value] = _as_meta(self.host[value])
        return self._meta[value]


def _as_meta(array: np.ndarray) -> Any:
    """A constant of the program; Paddle's inference looks into ``full`` only."""
    if array.size == 1:
        return paddle.full(list(array.shape), array.reshape(-1)[0].item(), str(array.dtype))
    return paddle.assign(array)


_RESIZE_OPS = frozenset({"bilinear_interp", "nearest_interp", "bicubic_interp", "linear_interp", "trilinear_interp"})


def sized(node: Node, host: Mapping[Value, np.ndarray]) -> Node:
    """``node`` with the size it resizes to as constants, where it reads known integers from a tensor.

    Returns:
        a node with the same outputs; ``node`` itself when there is nothing to change.
    """
    if node.op not in _RESIZE_OPS:
        return node
    given = next(
        (slot_values(node.inputs.get(name)) for name in ("size_tensor", "out_size") if node.inputs.get(name)), []
    )
    if not given or any(value not in host for value in given):
        return node
    sizes = [int(size) for value in given for size in host[value].reshape(-1)]
    names = ("out_d", "out_h", "out_w")[-len(sizes) :] if len(sizes) > 1 else ("out_w",)
    inputs = {**node.inputs, "size_tensor": None, "out_size": None}
    return Node(node.name, node.op, inputs, {**node.attrs, **dict(zip(names, sizes))}, node.outputs, node.layer)


def build(node: Node, call: Call, argument: Any) -> Any:
    """Call the function of ``node`` with ``argument(value, kind)`` for every value it reads."""
    arguments = []
    for name, kind in call.arguments:
        slot = node.inputs.get(name)
        if slot is None:
            arguments.append(constant_argument(node, name, kind))
        elif isinstance(slot, list):
            arguments.append([argument(value, SCALAR if kind == INTS else kind) for value in slot])
        else:
            arguments.append(argument(slot, kind))
    if call.keywords:
        return call.function(**{name: item for (name, _), item in zip(call.arguments, arguments)})
    return call.function(*arguments)


def infer_shapes(graph: Graph, inputs: Iterable[tuple[int, ...]]) -> ShapeRun:
    """Infer every shape of ``graph`` for the given input shapes, in the order of its inputs."""
    run = ShapeRun(dict(zip(graph.inputs, inputs)), graph.parameters.values())
    run.need([value for node in graph.nodes for value in node.output_values()])
    return run


def sample_shapes(values: Iterable[Value], size: int, batch: int) -> list[tuple[int, ...]]:
    """Shapes with ``batch`` for a dynamic first axis and ``size`` for any other dynamic axis."""
    return [
        tuple(known if known != -1 else (batch if axis == 0 else size) for axis, known in enumerate(value.shape))
        for value in values
    ]


def refresh_shapes(graph: Graph) -> None:
    """Give every value of an edited graph its shape and type again; those of inputs and parameters are taken as given.

    An axis that differs between two input sizes is dynamic.
    """
    first = infer_shapes(graph, sample_shapes(graph.inputs, 128, 2))
    second = infer_shapes(graph, sample_shapes(graph.inputs, 256, 3))
    for node in graph.nodes:
        for value in node.output_values():
            pairs = zip(first.shape(value), second.shape(value))
            value.shape = tuple(a if a == b else -1 for a, b in pairs)
            value.dtype = first.dtype(value)
    graph.touch()
