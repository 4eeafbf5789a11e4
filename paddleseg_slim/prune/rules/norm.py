"""Normalisations: their parameters follow the channels; those that average over channels consume them too."""

from __future__ import annotations

from paddleseg_slim.graph.ir import Node, slot_values
from paddleseg_slim.prune.ids import factor_at
from paddleseg_slim.prune.rules.conv import channel_axis
from paddleseg_slim.prune.walk import RULES, Walk, attr


def _bind(walk: Walk, node: Node, names: tuple[str, ...], axis: int) -> None:
    ids = walk.axis(node.value("x"), axis)
    for name in names:
        for value in slot_values(node.inputs.get(name)):
            walk.bind(value, 0, ids, node)


@RULES.register("batch_norm")
def batch_norm(walk: Walk, node: Node) -> None:
    """Scale, bias and statistics are one number a channel."""
    _bind(walk, node, ("mean", "variance", "scale", "bias"), channel_axis(node, len(walk.shape(node.value("x")))))
    walk.set(node.out, walk.of(node.value("x")))


@RULES.register("instance_norm")
def instance_norm(walk: Walk, node: Node) -> None:
    """Statistics of each channel by itself."""
    _bind(walk, node, ("scale", "bias"), 1)
    walk.set(node.out, walk.of(node.value("x")))


@RULES.register("group_norm")
def group_norm(walk: Walk, node: Node) -> None:
    """Groups stay equal: position k of every group lives or dies together."""
    x = node.value("x")
    axis = channel_axis(node, len(walk.shape(x)))
    _bind(walk, node, ("scale", "bias"), axis)
    ids = walk.axis(x, axis)
    if ids is not None and (len(walk.shape(x)) != 4 or axis != 1):
        walk.ids.pin(ids, f"{node.name} (group_norm): only [N, C, H, W] is supported")
    elif ids is not None:
        walk.ids.unite_along(ids.reshape(int(node.attrs["groups"]), -1), 0)
        walk.read(node, "x", factor_at(walk.of(x), axis), "group_norm")
    walk.set(node.out, walk.of(x))


@RULES.register("layer_norm")
def layer_norm(walk: Walk, node: Node) -> None:
    """Normalises over the last axes, of which one may be longer than 1: that of the channels."""
    x = node.value("x")
    sizes = walk.shape(x)
    begin = int(attr(node, "begin_norm_axis", 1))
    long = [a for a in range(begin, len(sizes)) if x.shape[a] != 1]
    if len(long) == 1:
        _bind(walk, node, ("scale", "bias"), long[0])
        walk.read(node, "x", factor_at(walk.of(x), long[0]), "layer_norm")
    else:
        reason = f"{node.name}: normalises over {len(long)} axes at once"
        walk.pin(tuple(f for f in walk.of(x) if max(f.axes) >= begin), reason)
        for name in ("scale", "bias"):
            for value in slot_values(node.inputs.get(name)):
                walk.pin(walk.of(value), reason)
    walk.set(node.out, walk.of(x))
