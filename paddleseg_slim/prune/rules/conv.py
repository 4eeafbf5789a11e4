"""Convolutions, transposed convolutions, embeddings: where channels are made and consumed."""

from __future__ import annotations

import numpy as np

from paddleseg_slim.graph.ir import Graph, Node
from paddleseg_slim.prune.ids import FIXED, Factor, factor_at
from paddleseg_slim.prune.walk import RULES, Change, Keep, Walk, attr


def channel_axis(node: Node, rank: int) -> int:
    """The axis of the channels by the node's data format."""
    layout = str(attr(node, "data_format", "NCHW") or "NCHW")
    return rank - 1 if layout.endswith("C") and rank > 2 else 1


def _set_groups(ids: np.ndarray) -> Change:
    """An edit of ``groups`` to the number of input channels that stay."""

    def change(graph: Graph, node: Node, keep: Keep) -> None:
        node.attrs["groups"] = int(keep(ids).sum())

    return change


def _input_channels(walk: Walk, node: Node, argument: str) -> tuple[np.ndarray | None, int]:
    x = node.value(argument)
    axis = channel_axis(node, len(walk.shape(x)))
    walk.only(x, [axis], node, "its input moves over positions, not channels")
    return walk.axis(x, axis), axis


def _grouped(walk: Walk, ids: np.ndarray | None, groups: int) -> np.ndarray | None:
    """Unite position k of every group of channels; return the ids of the first group."""
    if ids is None:
        return None
    block = ids.reshape(groups, -1)
    walk.ids.unite_along(block, 0)
    return block[0]


@RULES.register("conv2d", "depthwise_conv2d", "conv3d")
def conv(walk: Walk, node: Node) -> None:
    """Filter ``[out, in / groups, ...]``: dense, depthwise with any multiplier, or grouped (groups stay equal)."""
    filters = node.value("filter")
    groups = int(attr(node, "groups", 1) or 1)
    ids, axis = _input_channels(walk, node, "input")
    total = walk.shape(node.value("input"))[axis]
    made = walk.made(filters, 0, node)
    walk.only(filters, [0, 1], node, "kernel positions")
    if groups > 1 and groups == total:
        _depthwise(walk, node, ids, made, groups)
    else:
        first = _grouped(walk, ids, groups)
        walk.bind(filters, 1, first, node)
        _grouped(walk, made, groups)
        walk.read(node, "input", factor_at(walk.of(node.value("input")), axis))
        walk.costs(node, made, first)
    walk.set(node.out, FIXED if made is None else (Factor((axis,), made),))


def _depthwise(walk: Walk, node: Node, ids: np.ndarray | None, made: np.ndarray | None, groups: int) -> None:
    if made is None:
        return
    if ids is None:
        walk.ids.pin(made, f"{node.name} ({node.op}) works on each of fixed channels")
        return
    walk.ids.unite(made.reshape(groups, -1), ids[:, None])
    walk.edit(node, _set_groups(ids))
    walk.costs(node, made)


@RULES.register("conv2d_transpose", "depthwise_conv2d_transpose", "conv3d_transpose")
def conv_transpose(walk: Walk, node: Node) -> None:
    """Filter ``[in, out / groups, ...]``."""
    filters = node.value("filter")
    groups = int(attr(node, "groups", 1) or 1)
    ids, axis = _input_channels(walk, node, "x")
    total = walk.shape(node.value("x"))[axis]
    walk.bind(filters, 0, ids, node)
    walk.only(filters, [0, 1], node, "kernel positions")
    if groups > 1 and groups == total:
        each = walk.shape(node.out)[axis] // groups
        own = walk.axis(filters, 1)
        if own is not None:
            walk.ids.pin(own, f"{node.name}: outputs of each channel")
        if ids is None:
            walk.set(node.out, FIXED)
            return
        walk.edit(node, _set_groups(ids))
        walk.costs(node, ids)
        walk.set(node.out, (Factor((axis,), np.repeat(ids, each)),))
        return
    _grouped(walk, ids, groups)
    made = walk.made(filters, 1, node)
    walk.read(node, "x", factor_at(walk.of(node.value("x")), axis))
    walk.costs(node, ids, made)
    walk.set(node.out, FIXED if made is None else (Factor((axis,), np.tile(made, groups)),))


@RULES.register("embedding")
def embedding(walk: Walk, node: Node) -> None:
    """Weight ``[tokens, channels]``: the channels are made here, the tokens are fixed."""
    weight = node.value("weight")
    tokens, made = walk.axis(weight, 0), walk.made(weight, 1, node)
    if tokens is not None:
        walk.ids.pin(tokens, f"{node.name}: tokens are looked up by number")
    walk.set(node.out, FIXED if made is None else (Factor((len(walk.shape(node.out)) - 1,), made),))
