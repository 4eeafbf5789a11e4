"""Convolutions with the bias and the BatchNorm behind them as one: ``w' = w g / s``, ``b' = (b - m) g / s + beta``.

The graph itself stays as it is; the fold is only in what is written.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from paddleseg_slim.deploy.onnx.builder import Builder
from paddleseg_slim.graph import Node, Value, uses_stored_statistics

TRANSPOSED = frozenset({"conv2d_transpose", "depthwise_conv2d_transpose"})
CONVOLUTIONS = frozenset({"conv2d", "depthwise_conv2d", *TRANSPOSED})


@dataclass
class Folded:
    """A convolution and what it takes over.

    Attributes:
        scale: factor on each output channel, float64 ``[C]``; None for none.
        bias: float64 ``[C]``; None for none.
        out: the value that the convolution makes in the end.
        absorbed: the nodes that are not written any more.
    """

    scale: np.ndarray | None
    bias: np.ndarray | None
    out: Value
    absorbed: list[Node]


def fold(builder: Builder, node: Node) -> Folded:
    """See what follows a convolution and can be taken over by it: bias, BatchNorm, factors by channel, in any order."""
    filters = node.value("filter")
    channels = filter_channels(node, builder.shape(filters))
    result = Folded(None, None, node.out, [])
    if builder.rank(node.out) != 4:
        return result
    may_scale = builder.array(filters) is not None
    while True:
        users = builder.graph.users(result.out)
        if len(users) != 1 or builder.graph.is_output(result.out):
            return result
        step = _affine(builder, users[0], result.out, channels)
        if step is None or (step[0] is not None and not may_scale):
            return result
        scale, shift = step
        if scale is not None:
            result.scale = scale if result.scale is None else result.scale * scale
            result.bias = None if result.bias is None else result.bias * scale
        if shift is not None:
            result.bias = shift if result.bias is None else result.bias + shift
        result.absorbed.append(users[0])
        result.out = users[0].out


def filter_channels(node: Node, shape: tuple[int, ...]) -> int:
    """Output channels of a convolution with a filter of this shape."""
    return shape[1] * int(node.attrs.get("groups", 1)) if node.op in TRANSPOSED else shape[0]


def scaled_filter(node: Node, weight: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The filter times ``scale`` by output channel, in float32."""
    if node.op in TRANSPOSED:  # [in, out / groups, kh, kw]
        groups = int(node.attrs.get("groups", 1))
        factor = np.repeat(scale.reshape(groups, -1), weight.shape[0] // groups, axis=0)[:, :, None, None]
    else:  # [out, in / groups, kh, kw]
        factor = scale[:, None, None, None]
    return (weight.astype(np.float64) * factor).astype(np.float32)


def norm_affine(builder: Builder, node: Node) -> tuple[np.ndarray, np.ndarray] | None:
    """Factor and shift by channel, float64 ``[C]``, of a BatchNorm in inference; None when it is not constant."""
    arrays = {}
    for argument, default in (("mean", None), ("variance", None), ("scale", 1.0), ("bias", 0.0)):
        value = node.inputs.get(argument)
        array = builder.array(value) if isinstance(value, Value) else default
        if array is None:
            return None
        arrays[argument] = np.asarray(array, np.float64)
    factor = arrays["scale"] / np.sqrt(arrays["variance"] + float(node.attrs["epsilon"]))
    return factor, arrays["bias"] - arrays["mean"] * factor


def _affine(
    builder: Builder, node: Node, value: Value, channels: int
) -> tuple[np.ndarray | None, np.ndarray | None] | None:
    """What ``node`` does to ``value`` as (factor, shift) by channel; None when it is something else."""
    if node.op == "batch_norm" and node.value("x") is value and uses_stored_statistics(node):
        return norm_affine(builder, node)
    if node.op not in ("add", "multiply"):
        return None
    other = next((item for item in node.input_values() if item is not value), None)
    array = None if other is None else builder.array(other)
    if array is None or not _by_channel(array.shape, channels):
        return None
    numbers = array.astype(np.float64).reshape(-1)
    return (None, numbers) if node.op == "add" else (numbers, None)


def _by_channel(shape: tuple[int, ...], channels: int) -> bool:
    """Whether an array of this shape has one number a channel of ``[N, C, H, W]``."""
    return shape in ((1, channels, 1, 1), (channels, 1, 1))
