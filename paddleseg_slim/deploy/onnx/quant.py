"""Quantizers: a ``slim.fake_quant`` node is a QuantizeLinear and a DequantizeLinear, on a parameter an int8 constant.

The node means ``(clip(round_half_even(x / scale) + zero_point, qmin, qmax) - zero_point) * scale``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from paddleseg_slim.deploy.onnx.builder import Builder, writes
from paddleseg_slim.errors import UserError
from paddleseg_slim.graph import Node, Value

FAKE_QUANT = "slim.fake_quant"
_EXPONENTS = 63
"""Of `quant.tables`."""

_TYPES = (("uint8", 13), ("int8", 13), ("uint16", 21), ("int16", 21))
"""Integer types, narrow ones and unsigned ones first, and the opset that first quantizes to each."""


def _integer_type(b: Builder, node: Node, low: int, high: int) -> str:
    """The narrowest ONNX integer type that holds the range of a quantizer; unsigned if it does not go below zero."""
    for name, opset in _TYPES:
        info = np.iinfo(name)
        if info.min <= low and high <= info.max and b.opset >= opset:
            return name
    raise UserError(
        f"Quantizer {node.name!r} has the range [{low}, {high}], for which opset {b.opset} has no type.",
        "Quantize to 8 bits, or export with --opset 21.",
    )


@dataclass(frozen=True)
class _Integers:
    """What a quantizer rounds to, as the file holds it.

    Attributes:
        scale: float32, a scalar or one a channel.
        zero: zero points in the integer type of the file, in the shape of ``scale``.
        low: smallest integer used.
        high: largest integer used.
        axis: that the scales go along; None: one scale.
    """

    scale: np.ndarray
    zero: np.ndarray
    low: int
    high: int
    axis: int | None

    @property
    def fills_type(self) -> bool:
        """Whether the integers used are all that their type has."""
        info = np.iinfo(self.zero.dtype)
        return (self.low, self.high) == (info.min, info.max)


def _integers_of(b: Builder, node: Node) -> _Integers:
    point = node.inputs.get("zero_point")
    scale, zero = b.array(node.value("scale")), b.array(point) if isinstance(point, Value) else None
    if scale is None or (isinstance(point, Value) and zero is None):
        raise UserError(f"The scale of quantizer {node.name!r} is computed in the graph.", "Store it as a parameter.")
    scale = scale.astype(np.float32)
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        raise UserError(f"The scale of quantizer {node.name!r} is not above 0.", "Calibrate the model on real images.")
    axis = node.attrs.get("axis")
    scale = scale.reshape(()) if axis is None else scale
    low, high = int(node.attrs["qmin"]), int(node.attrs["qmax"])
    zeros = np.zeros(scale.shape) if zero is None else np.broadcast_to(np.round(zero), scale.shape)
    middle = (high + 1) // 2
    if b.signed_middle and low == 0 and (zeros == middle).all():
        low, high, zeros = low - middle, high - middle, zeros - middle
    kind = _integer_type(b, node, low, high)
    return _Integers(scale, zeros.astype(kind), low, high, axis if scale.ndim else None)


@writes(FAKE_QUANT)
def _fake_quant(b: Builder, node: Node) -> str:
    found = _integers_of(b, node)
    array = b.array(node.value("x"))
    if array is not None:
        return _constant(b, node, array, found)
    x = b.ref(node.value("x"))
    if not found.fills_type:
        if found.scale.ndim:
            raise UserError(
                f"Quantizer {node.name!r} is per channel and narrower than {found.zero.dtype}.",
                "Quantize activations per tensor.",
            )
        bounds = [b.scalar(float((bound - int(found.zero)) * found.scale)) for bound in (found.low, found.high)]
        x = b.op("Clip", [x, *bounds], node)
    constants = _stored(b, node, found)
    integers = b.op("QuantizeLinear", [x, *constants], node, axis=found.axis)
    result = b.op("DequantizeLinear", [integers, *constants], node, last=True, axis=found.axis)
    if b.integer_sizes:
        b.same_size[result] = integers
    return result


def _constant(b: Builder, node: Node, array: np.ndarray, found: _Integers) -> str:
    spread = [1] * array.ndim
    if found.axis is not None:
        spread[found.axis] = -1
    scale, zero = (item.reshape(spread).astype(np.float32) for item in (found.scale, found.zero))
    steps = np.round(array.astype(np.float32) / scale) + zero
    integers = np.clip(steps, found.low, found.high).astype(found.zero.dtype)
    inputs = [b.constant(integers, b.unique(f"{node.value('x').name}.int")), *_stored(b, node, found)]
    return b.op("DequantizeLinear", inputs, node, last=True, axis=found.axis)


def _stored(b: Builder, node: Node, found: _Integers) -> list[str]:
    """Names of the constants of a scale and its zero point; scales that are shared and equal zero points once."""
    source, zero = node.value("scale").name, found.zero
    scales, zeros = ("scale", source), ("zero", zero.dtype.name, zero.shape, zero.tobytes())
    if scales not in b.cache:
        b.cache[scales] = b.constant(found.scale, b.unique(f"{source}.float32"))
    if zeros not in b.cache:
        b.cache[zeros] = b.constant(zero, b.unique(f"{source}.zero"))
    return [b.cache[scales], b.cache[zeros]]


@writes("slim.log2_quant")
def _log2(b: Builder, node: Node) -> str:
    """A table of signs and exponents: one byte a weight, looked up among the powers of two."""
    array, top = b.array(node.value("x")), int(node.attrs["top"])
    if array is None:
        raise UserError(f"{node.name!r} rounds what the graph computes to powers of two.", "It is for stored weights.")
    powers = np.append(0.0, 2.0 ** np.arange(top - _EXPONENTS + 1, top + 1))
    magnitude = np.abs(array.astype(np.float64))
    exponents = np.round(np.log2(np.maximum(magnitude, 1e-300)))
    places = np.where(magnitude < 2.0 ** (top - _EXPONENTS), 0, np.clip(exponents - top + _EXPONENTS, 1, _EXPONENTS))
    codes = (np.sign(array) * places + _EXPONENTS).astype(np.uint8)
    book = np.concatenate([-powers[:0:-1], powers]).astype(np.float32)
    wide = b.op("Cast", [b.constant(codes, b.unique(f"{node.value('x').name}.log2"))], node, to=6)
    return b.op("Gather", [b.constant(book, b.unique(f"{node.name}.powers")), wide], node, last=True, axis=0)


def quantized_bias(b: Builder, node: Node, x: Value, filters: Value, bias: np.ndarray) -> str | None:
    """Name of a bias stored as int32 steps of ``scale(x) * scale(filter)``; None when those are not quantized."""
    if not all(value.producer is not None and value.producer.op == FAKE_QUANT for value in (x, filters)):
        return None
    producers: list[Any] = [x.producer, filters.producer]
    scale_x, scale_w = (_integers_of(b, producer).scale for producer in producers)
    scale = np.broadcast_to(scale_x * scale_w, bias.shape).astype(np.float32)
    limit = np.iinfo(np.int32)
    integers = np.clip(np.round(bias.astype(np.float64) / scale), limit.min, limit.max).astype(np.int32)
    inputs = [
        b.constant(integers, b.unique(f"{node.name}.bias.int")),
        b.constant(scale, b.unique(f"{node.name}.bias.scale")),
    ]
    return b.op("DequantizeLinear", inputs, node, axis=0)
