"""The op table: one row an op, with what the package knows of it.

Most ops need no row to run (`dispatch` derives the call from Paddle's own declarations); a row says what cannot be
derived: another way to run it, how channels pass through it (filled in by ``prune``), what it costs.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from paddleseg_slim.channel_add import add_channels
from paddleseg_slim.graph.ir import Node, Value
from paddleseg_slim.registry import OP_MODULES

Shape = tuple[int, ...]
CostRule = Callable[[Node, Callable[[Any], Shape]], int]
"""``rule(node, shape_of) -> multiply-accumulate operations``; ``shape_of(value)`` gives a static shape."""


@dataclass(frozen=True)
class OpRow:
    """What is known of an op.

    Attributes:
        op: its name in the graph.
        run: function of its inputs and attributes by name, returning a tensor or a tuple of them; None: Paddle's own.
            Under a program guard it must build ops, so write it with Paddle's functions.
        applies: nodes that ``run`` is for; None: all of this op.
        macs: the cost rule; None: no multiply-accumulates.
        channels: the channel rule of the pruner, opaque here.
    """

    op: str
    run: Callable[..., Any] | None = None
    applies: Callable[[Node], bool] | None = None
    macs: CostRule | None = None
    channels: Any = None


def data_argument(op: str) -> str:
    """By which argument an op that has a weight reads what it works on."""
    return "input" if op in ("conv2d", "depthwise_conv2d") else "x"


_TABLE: dict[str, OpRow] = {}


def register_op(item: OpRow) -> OpRow:
    """Add a row (`ValueError` when the op has one: see `extend_op`)."""
    if item.op in _TABLE:
        raise ValueError(f"op {item.op!r} is registered twice")
    _TABLE[item.op] = item
    return item


def extend_op(op: str, *, channels: Any = None, macs: CostRule | None = None) -> OpRow:
    """Fill empty fields of the row of ``op`` (made when there is none); `ValueError` when a field is taken."""
    present = _TABLE.get(op, OpRow(op))
    given = {"channels": channels, "macs": macs}
    for name, value in given.items():
        if value is not None and getattr(present, name) is not None:
            raise ValueError(f"op {op!r} has a rule for {name} already")
    _TABLE[op] = replace(present, **{name: value for name, value in given.items() if value is not None})
    return _TABLE[op]


def row(op: str) -> OpRow | None:
    """The row of ``op``; None when the table lacks it. `registry.OP_MODULES` says which module brings one."""
    if op not in _TABLE and op in OP_MODULES:
        importlib.import_module(OP_MODULES[op])
    return _TABLE.get(op)


def own_function(node: Node) -> Callable[..., Any] | None:
    """The function that runs ``node`` instead of Paddle's own, if there is one."""
    known = row(node.op)
    if known is None or (known.applies is not None and not known.applies(node)):
        return None
    return known.run


def rows() -> Sequence[OpRow]:
    """All rows, by name."""
    return [_TABLE[name] for name in sorted(_TABLE)]


def _conv_macs(node: Node, shape_of: Callable[[Any], Shape]) -> int:
    """Every output element takes one filter: input channels of a group times the kernel."""
    return math.prod(shape_of(node.out)) * math.prod(shape_of(node.inputs["filter"])[1:])


def _conv_transpose_macs(node: Node, shape_of: Callable[[Any], Shape]) -> int:
    """Every input element meets the filter slice of its channel: output channels of a group times the kernel."""
    return math.prod(shape_of(node.inputs["x"])) * math.prod(shape_of(node.inputs["filter"])[1:])


def _matmul_macs(node: Node, shape_of: Callable[[Any], Shape]) -> int:
    inner = shape_of(node.inputs["x"])
    axis = -2 if node.attrs.get("transpose_x") and len(inner) > 1 else -1
    return math.prod(shape_of(node.out)) * inner[axis]


def _addmm_macs(node: Node, shape_of: Callable[[Any], Shape]) -> int:
    return math.prod(shape_of(node.out)) * shape_of(node.inputs["x"])[-1]


def _deformable_macs(node: Node, shape_of: Callable[[Any], Shape]) -> int:
    return math.prod(shape_of(node.out)) * math.prod(shape_of(node.inputs["filter"])[1:])


def _run_arg(name: str) -> Callable[..., Any]:
    """`argmax` / `argmin` by their public functions: the argument order of the private ones changed in 3.2."""

    def run(x: Any, axis: Any, keepdims: bool, flatten: bool, dtype: Any) -> Any:
        import paddle

        dtype_name = str(getattr(dtype, "name", dtype)).lower()
        return getattr(paddle, name)(x, None if flatten else int(axis), keepdims, dtype_name)

    return run


def _run_assign_value(shape: Any, dtype: Any, values: Any) -> Any:
    """A constant tensor; Paddle's own op fills a tensor in place."""
    import numpy as np
    import paddle

    name = str(getattr(dtype, "name", dtype)).lower()
    return paddle.assign(np.array(values, np.float32 if name == "bfloat16" else name).reshape(shape)).astype(name)


def _run_einsum(x: Any, equation: str) -> Any:
    """The result without the caches for the gradient that stand behind it."""
    import paddle

    return paddle._C_ops.einsum(x, equation)[0]


def _run_where(condition: Any, x: Any, y: Any) -> Any:
    """Select with a condition of another shape, as a decision on data becomes; Paddle's op takes equal shapes."""
    import paddle

    return paddle.where(condition, x, y)


def _is_broadcast(node: Node) -> bool:
    condition, x, y = (node.inputs.get(name) for name in ("condition", "x", "y"))
    return all(isinstance(item, Value) for item in (condition, x, y)) and condition.shape != x.shape  # type: ignore[union-attr]


def _adds_channels(node: Node) -> bool:
    """Whether an addition adds a number a channel to an image."""
    x, y = node.inputs.get("x"), node.inputs.get("y")
    if not isinstance(x, Value) or not isinstance(y, Value) or len(x.shape) != 4 or len(y.shape) != 4:
        return False
    return y.shape[0] == 1 and y.shape[2:] == (1, 1) and y.shape[1] != 1


register_op(OpRow("add", run=add_channels, applies=_adds_channels))
register_op(OpRow("where", run=_run_where, applies=_is_broadcast))
register_op(OpRow("einsum", run=_run_einsum))
for _op in ("conv2d", "depthwise_conv2d", "conv3d"):
    register_op(OpRow(_op, macs=_conv_macs))
for _op in ("conv2d_transpose", "depthwise_conv2d_transpose", "conv3d_transpose"):
    register_op(OpRow(_op, macs=_conv_transpose_macs))
for _op in ("matmul", "bmm", "mv", "dot"):
    register_op(OpRow(_op, macs=_matmul_macs))
register_op(OpRow("addmm", macs=_addmm_macs))
register_op(OpRow("deformable_conv", macs=_deformable_macs))
for _op in ("argmax", "argmin"):
    register_op(OpRow(_op, run=_run_arg(_op)))
register_op(OpRow("assign_value", run=_run_assign_value))
