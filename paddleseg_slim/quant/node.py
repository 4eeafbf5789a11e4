"""The op ``slim.fake_quant``: round to a grid of integers and back, in any engine and under any program guard.

``x`` becomes ``(clip(round(x / scale) + zero_point, qmin, qmax) - zero_point) * scale``, with rounding half to even as
ONNX does. The gradient is the straight-through estimator (Bengio et al. 2013) with the clipping of Jacob et al. (2018):
1 inside the range, 0 outside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle

from paddleseg_slim.graph.ir import Graph, Node, Value
from paddleseg_slim.graph.ops import OpRow, register_op

OP = "slim.fake_quant"

TINY_SCALE = 1e-8
"""The smallest scale: a range of zero (a dead channel) must not divide by zero."""


@dataclass(frozen=True)
class Grid:
    """The integers that a quantizer rounds to.

    Attributes:
        bits: width of the stored integer.
        qmin: smallest integer used.
        qmax: largest integer used.
        axis: axis of ``x`` with a scale for each element; None: one scale.
    """

    bits: int
    qmin: int
    qmax: int
    axis: int | None = None

    @property
    def signed(self) -> bool:
        """Whether the integers go below zero."""
        return self.qmin < 0

    @property
    def steps(self) -> int:
        """How many steps lie between the smallest and the largest integer."""
        return self.qmax - self.qmin

    def attrs(self) -> dict[str, Any]:
        """Attributes of the node."""
        return {"bits": self.bits, "axis": self.axis, "qmin": self.qmin, "qmax": self.qmax}

    @classmethod
    def of(cls, node: Node) -> Grid:
        """The grid of a ``slim.fake_quant`` node."""
        return cls(**{name: node.attrs[name] for name in ("bits", "qmin", "qmax", "axis")})


def symmetric(bits: int, axis: int | None = None, stored_bits: int | None = None) -> Grid:
    """Signed integers of ``bits`` bits without the lowest one, so that the range is symmetric: 8 -> -127 ... 127."""
    top = 2 ** (bits - 1) - 1
    return Grid(stored_bits or bits, -top, top, axis)


def unsigned(bits: int) -> Grid:
    """Unsigned integers: 8 -> 0 ... 255."""
    return Grid(bits, 0, 2**bits - 1)


def along(array: np.ndarray, axis: int | None, rank: int) -> np.ndarray:
    """A vector of scales shaped to broadcast along ``axis`` of a tensor of this rank."""
    if axis is None or array.ndim == 0:
        return array.reshape(())
    return array.reshape([-1 if a == axis % rank else 1 for a in range(rank)])


def quantize_array(x: np.ndarray, scale: np.ndarray, grid: Grid, zero_point: np.ndarray | int = 0) -> np.ndarray:
    """The integers of ``x`` (float array of whole numbers), as the node computes them."""
    step = along(np.asarray(scale, x.dtype), grid.axis, x.ndim)
    zero = along(np.asarray(zero_point, x.dtype), grid.axis, x.ndim)
    return np.clip(np.rint(x / step) + zero, grid.qmin, grid.qmax)


def fake_quantize_array(x: np.ndarray, scale: np.ndarray, grid: Grid, zero_point: np.ndarray | int = 0) -> np.ndarray:
    """What the node returns for ``x``, in NumPy."""
    step = along(np.asarray(scale, x.dtype), grid.axis, x.ndim)
    zero = along(np.asarray(zero_point, x.dtype), grid.axis, x.ndim)
    return (quantize_array(x, scale, grid, zero_point) - zero) * step


def _limits(zero: Any, qmin: int, qmax: int) -> tuple[Any, Any]:
    """The integers of the grid counted from the zero point: where a quotient is clipped."""
    if zero is None:
        return qmin, qmax
    if zero.size == 1 and zero.place.is_cpu_place():  # numbers are faster than tensors, and nothing waits for a GPU
        return qmin - zero.item(), qmax - zero.item()
    return qmin - zero, qmax - zero


class _StraightThrough(paddle.autograd.PyLayer):
    """Eager form: few passes over memory, the gradient masked where ``x`` was clipped; scales are constants."""

    @staticmethod
    def forward(ctx: Any, x: Any, scale: Any, zero: Any, qmin: int, qmax: int) -> Any:
        level = paddle.divide(x, scale).round_()
        inside = paddle.clip(level, *_limits(zero, qmin, qmax))
        ctx.save_for_backward(paddle.equal(inside, level))
        return inside.multiply_(scale)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        (mask,) = ctx.saved_tensor()
        return gradient * mask.astype(gradient.dtype)


def fake_quant(
    x: Any,
    scale: Any,
    zero_point: Any = None,
    bits: int = 8,
    axis: int | None = None,
    qmin: int = -127,
    qmax: int = 127,
) -> Any:
    """Round ``x`` to the grid.

    Args:
        x: float tensor of any shape.
        scale: float32, shape ``[]`` or ``[C]`` along ``axis``.
        zero_point: float32 whole numbers in the shape of ``scale``; None is 0. One that is being learned is rounded.
        bits: width of the stored integer; the engine's business, not used here.
        axis: axis of ``x`` that the scales go along; None: one scale.
        qmin: smallest integer.
        qmax: largest integer.
    """
    if axis is not None:
        shape = [-1 if a == axis % len(x.shape) else 1 for a in range(len(x.shape))]
        scale = paddle.reshape(scale, shape)
        zero_point = None if zero_point is None else paddle.reshape(zero_point, shape)
    zero_point = None if zero_point is None else paddle.round(zero_point)
    if paddle.in_dynamic_mode() and not x.stop_gradient and paddle.is_grad_enabled():
        return _StraightThrough.apply(x, scale, zero_point, qmin, qmax)
    level = paddle.round(x / scale)
    if zero_point is None:
        return paddle.clip(level, qmin, qmax) * scale
    return (paddle.clip(level + zero_point, qmin, qmax) - zero_point) * scale


register_op(OpRow(OP, run=fake_quant))


def is_fake_quant(value: Value) -> bool:
    """Whether ``value`` comes straight out of a quantizer."""
    return value.producer is not None and value.producer.op == OP


def quantizers(graph: Graph) -> list[Node]:
    """The quantizer nodes of a graph, in order."""
    return [node for node in graph.nodes if node.op == OP]


def tensor_names(node: Node) -> Sequence[str]:
    """Names of the stored scale and, if there is one, zero point of a quantizer node."""
    zero = node.inputs.get("zero_point")
    return [node.value("scale").name] + ([zero.name] if isinstance(zero, Value) else [])
