"""Channels of zeros, without effect, that let an engine take its fast kernels.

ONNX Runtime has its layout of blocks of channels (NCHWc) for depthwise convolutions of a multiple of four channels. Any
others, such as the 82 of PP-HumanSeg-Lite, it computes several times more slowly, and the convolution behind as well.
"""

from __future__ import annotations

from paddleseg_slim.deploy.onnx.builder import Builder
from paddleseg_slim.deploy.onnx.fold import TRANSPOSED, Folded
from paddleseg_slim.graph import Node, Value

_MULTIPLE = 4
_FEWEST = 8
"""Channels below which there is nothing to gain."""

_FINITE_AT_ZERO = frozenset(
    {"relu", "relu6", "leaky_relu", "elu", "gelu", "hardswish", "swish", "silu", "mish", "sigmoid", "hardsigmoid"}
)


def add_channels(b: Builder, node: Node, folded: Folded) -> int:
    """How many channels to add to a convolution, and note for those who read them that they are there.

    Only a float depthwise convolution gets some, and only where plain convolutions read it: their filters are 0 there.
    """
    filters, groups = node.value("filter"), int(node.attrs["groups"])
    if node.op in TRANSPOSED or b.array(filters) is None or b.shape(filters)[:2] != (groups, 1):
        return 0
    if groups < _FEWEST or groups % _MULTIPLE == 0:
        return 0
    values = _seen_by_convolutions(b, folded.out)
    if values is None:
        return 0
    added = -groups % _MULTIPLE
    b.added_channels.update(dict.fromkeys(values, added))
    return added


def _seen_by_convolutions(b: Builder, value: Value) -> list[Value] | None:
    """``value`` and what functions of single elements make of it; None unless plain convolutions read all of that."""
    if b.graph.is_output(value):
        return None
    values = [value]
    for user in b.graph.users(value):
        if user.op in _FINITE_AT_ZERO:
            behind = _seen_by_convolutions(b, user.out)
            if behind is None:
                return None
            values += behind
        elif not _is_plain(b, user) or user.value("input") is not value:
            return None
    return values


def _is_plain(b: Builder, node: Node) -> bool:
    """Whether a node is a convolution of one group with a constant float filter."""
    return node.op == "conv2d" and int(node.attrs["groups"]) == 1 and b.array(node.value("filter")) is not None
