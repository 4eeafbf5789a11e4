"""Integers computed from shapes, evaluated on the host: what ``x.shape[2] // 2`` became in a traced program.

A node is a *host node* when all it reads is shapes and constants and its op is in `HOST`. Its value depends on the
input shapes alone, so it is computed once for each and never costs a kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from paddleseg_slim.graph.ir import Graph, Node, Value, slot_values

MAX_CONSTANT = 64
"""A constant tensor with more elements than this is made by its kernel each time instead of being kept."""


def _slice(input: Any, axes: list[int], starts: Any, ends: Any, decrease_axis: list[int], **_: Any) -> Any:
    index: list[Any] = [slice(None)] * np.ndim(input)
    for axis, start, end in zip(axes, np.atleast_1d(starts), np.atleast_1d(ends)):
        index[axis] = slice(int(start), int(end))
    part = np.asarray(input)[tuple(index)]
    return np.squeeze(part, tuple(decrease_axis)) if decrease_axis else part


def _strided_slice(x: Any, axes: list[int], starts: Any, ends: Any, strides: Any) -> Any:
    index: list[Any] = [slice(None)] * np.ndim(x)
    for axis, start, end, step in zip(axes, starts, ends, strides):
        index[axis] = slice(int(start), int(end), int(step))
    return np.asarray(x)[tuple(index)]


def _scale(x: Any, scale: Any, bias: float, bias_after_scale: bool) -> Any:
    result = x * scale + bias if bias_after_scale else (x + bias) * scale
    return np.asarray(result).astype(np.asarray(x).dtype)


def _pow(x: Any, y: Any) -> Any:
    return np.power(x, y).astype(np.asarray(x).dtype)


def _divide(x: Any, y: Any) -> Any:
    """Integers divide as in C, towards zero."""
    if np.issubdtype(np.asarray(x).dtype, np.integer):
        return np.trunc(np.true_divide(x, y)).astype(np.asarray(x).dtype)
    return np.divide(x, y, dtype=np.asarray(x).dtype)


def _reduce(function: Callable[..., Any]) -> Callable[..., Any]:
    def run(x: Any, axis: Any = None, keepdim: bool = False, **_: Any) -> Any:
        axes = tuple(np.atleast_1d(axis).astype(int).tolist()) if axis is not None and np.size(axis) else None
        return function(x, axis=axes, keepdims=keepdim)

    return run


def _full(shape: Any, value: Any, dtype: str) -> Any:
    return np.full(tuple(shape), value, _numpy_dtype(dtype))


def _assign_value(shape: Any, dtype: str, values: Any) -> Any:
    return np.array(values, _numpy_dtype(dtype)).reshape(tuple(shape))


def _numpy_dtype(name: str) -> Any:
    if name == "undefined":
        return np.int64
    return np.dtype(name)  # TypeError for bfloat16: such constants are no host integers


def _unsqueeze(x: Any, axis: Any) -> Any:
    return np.expand_dims(x, tuple(np.atleast_1d(axis).astype(int).tolist()))


def _squeeze(x: Any, axis: Any) -> Any:
    axes = tuple(np.atleast_1d(axis).astype(int).tolist())
    return np.squeeze(x, axes or None)


def _ufunc(function: Callable[..., Any]) -> Callable[..., Any]:
    """NumPy's element-wise functions take their operands by position only."""

    def run(x: Any, y: Any = None) -> Any:
        return function(x) if y is None else function(x, y)

    return run


_UFUNCS: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "floor_divide": np.floor_divide,
    "remainder": np.remainder,
    "sqrt": np.sqrt,
    "abs": np.abs,
    "floor": np.floor,
    "ceil": np.ceil,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "equal": np.equal,
    "not_equal": np.not_equal,
    "less_than": np.less,
    "less_equal": np.less_equal,
    "greater_than": np.greater,
    "greater_equal": np.greater_equal,
    "logical_and": np.logical_and,
    "logical_or": np.logical_or,
    "logical_not": np.logical_not,
}

HOST: dict[str, Callable[..., Any]] = {
    "full": _full,
    "full_int_array": lambda value, dtype: np.array(value, _numpy_dtype(dtype)),
    "assign_value": _assign_value,
    "assign": lambda x: x,
    "slice": _slice,
    "strided_slice": _strided_slice,
    "scale": _scale,
    "divide": _divide,
    "elementwise_pow": _pow,
    "pow": _pow,
    "round": lambda x, decimals=0: np.round(x, decimals),
    "cast": lambda x, dtype: np.asarray(x).astype(_numpy_dtype(dtype)),
    "concat": lambda x, axis: np.concatenate([np.asarray(item) for item in x], int(axis)),
    "stack": lambda x, axis: np.stack([np.asarray(item) for item in x], int(axis)),
    "reshape": lambda x, shape: np.reshape(x, tuple(shape)),
    "flatten": lambda x, start_axis, stop_axis: np.reshape(x, -1),
    "squeeze": _squeeze,
    "unsqueeze": _unsqueeze,
    "prod": _reduce(np.prod),
    "sum": _reduce(np.sum),
    "max": _reduce(np.max),
    "min": _reduce(np.min),
    "all": _reduce(np.all),
    "any": _reduce(np.any),
    **{op: _ufunc(function) for op, function in _UFUNCS.items()},
}
"""NumPy functions by op, taking inputs and attributes by argument name."""

SHAPE_OPS = frozenset({"shape", "shape64", "numel"})
"""Ops that read the shape of a tensor instead of its data."""

CONSTANT_OPS = frozenset({"full", "full_int_array", "assign_value"})
"""Ops that read nothing."""


def _is_small(node: Node) -> bool:
    shape = node.attrs.get("shape", [len(node.attrs.get("value", ()) or ())] if node.op == "full_int_array" else None)
    return shape is not None and int(np.prod(shape)) <= MAX_CONSTANT and node.attrs.get("dtype") != "bfloat16"


def is_host(node: Node, host_values: Any) -> bool:
    """Whether ``node`` can be computed on the host, given the set of values known to be."""
    if node.op in SHAPE_OPS:
        return True
    if node.op in CONSTANT_OPS:
        return not node.input_values() and _is_small(node)
    return node.op in HOST and bool(node.input_values()) and all(v in host_values for v in node.input_values())


def host_nodes(graph: Graph) -> set[Node]:
    """All host nodes of ``graph``."""
    values: set[Value] = set()
    nodes: set[Node] = set()
    for node in graph.nodes:
        if is_host(node, values):
            nodes.add(node)
            values.update(node.output_values())
    return nodes


def run_host(node: Node, value_of: Callable[[Value], Any], shape_of: Callable[[Value], Any]) -> np.ndarray:
    """Compute a host node from the NumPy values of what it reads (`shape_of` for a shape op)."""
    if node.op in SHAPE_OPS:
        shape = np.array(shape_of(node.input_values()[0]), np.int32 if node.op == "shape" else np.int64)
        return shape if node.op != "numel" else np.array(int(np.prod(shape.astype(np.int64))), np.int64)
    arguments: dict[str, Any] = dict(node.attrs)
    for name, slot in node.inputs.items():
        arguments[name] = [value_of(v) for v in slot_values(slot)] if isinstance(slot, list) else value_of(slot)  # type: ignore[arg-type]
    return np.asarray(HOST[node.op](**arguments))


def as_integers(item: Any) -> list[int]:
    """An array of host integers as Paddle's integer arguments want it."""
    return [int(number) for number in np.asarray(item).reshape(-1)]


def as_integer_list(*items: Any) -> list[int]:
    """Several host integers as one list."""
    return [int(np.asarray(item).reshape(-1)[0]) for item in items]


def as_scalar(item: Any) -> Any:
    """A host number as a Python number."""
    return np.asarray(item).reshape(-1)[0].item()
