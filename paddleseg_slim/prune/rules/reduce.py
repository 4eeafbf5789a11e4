"""Reductions: over positions channels pass, over channels they are consumed."""

from __future__ import annotations

import numpy as np

from paddleseg_slim.graph.ir import Node
from paddleseg_slim.prune.ids import FIXED, Labels, moved
from paddleseg_slim.prune.walk import RULES, Walk, attr

KINDS = {
    "sum": "zero", "mean": "mean", "max": "lowest", "amax": "lowest", "min": "highest", "amin": "highest",
    "logsumexp": "lowest", "p_norm": "zero", "frobenius_norm": "zero", "squared_l2_norm": "zero",
}  # fmt: skip
"""How a removed channel is kept out of each reduction (`walk.Read`)."""


def _axes(node: Node, rank: int) -> list[int]:
    axes = attr(node, "axis", attr(node, "dims"))
    if axes is None or attr(node, "reduce_all", False) or attr(node, "asvector", False):
        return list(range(rank))
    axes = [axes] if isinstance(axes, int) else list(axes)
    return sorted(a % rank for a in axes) or list(range(rank))


def _free_of(walk: Walk, value: object, axes: list[int]) -> Labels:
    """Factors outside ``axes``; those that cross are made to depend on the axes inside only, and consumed."""
    left = []
    for factor in walk.of(value):  # type: ignore[arg-type]
        inside = [a for a in factor.axes if a in axes]
        if not inside:
            left.append(factor)
            continue
        for place, axis in enumerate(factor.axes):
            if axis not in axes:
                walk.ids.unite_along(factor.ids, place)
    return tuple(left)


@RULES.register(*KINDS)
def reduction(walk: Walk, node: Node) -> None:
    """Drop the reduced axes; channels on them are consumed."""
    x = next(iter(node.input_values()))
    argument = next(name for name, slot in node.inputs.items() if slot is x)
    rank = len(walk.shape(x))
    axes = _axes(node, rank)
    left = _free_of(walk, x, axes)
    for factor in walk.of(x):
        if factor not in left:
            walk.read(node, argument, factor, KINDS[node.op])
    if bool(attr(node, "keepdim", attr(node, "keep_dim", False))):
        walk.set(node.out, left)
        return
    places: list[int | None] = []
    for axis in range(rank):
        places.append(None if axis in axes else axis - sum(a < axis for a in axes))
    walk.set(node.out, moved(left, places) if len(walk.shape(node.out)) else FIXED)


@RULES.register("softmax", "log_softmax")
def softmax(walk: Walk, node: Node) -> None:
    """Elements along the axis compete: a removed one must not take part."""
    x = node.value("x")
    axis = int(attr(node, "axis", -1)) % len(walk.shape(x))
    for factor in walk.of(x):
        if axis in factor.axes:
            for place, other in enumerate(factor.axes):
                if other != axis:
                    walk.ids.unite_along(factor.ids, place)
            walk.read(node, "x", factor, "lowest")
    walk.set(node.out, walk.of(x))


@RULES.register("argmax", "argmin", "topk", "argsort", "cumsum", "kthvalue", "mode", "sort")
def ranking(walk: Walk, node: Node) -> None:
    """The result names positions: along its axis nothing can be removed; along others ids pass."""
    x = node.value("x")
    rank = len(walk.shape(x))
    axis = attr(node, "axis", -1)
    axes = list(range(rank)) if axis is None or attr(node, "flatten", False) else [int(np.ravel(axis)[0]) % rank]
    walk.pin(
        tuple(f for f in walk.of(x) if set(f.axes) & set(axes)),
        f"{node.name} ({node.op}) counts positions on this axis",
    )
    left = tuple(f for f in walk.of(x) if not set(f.axes) & set(axes))
    for value in node.output_values():
        same_rank = len(walk.shape(value)) == rank
        places = [None if a in axes else a - sum(b < a for b in axes) for a in range(rank)]
        walk.set(value, left if same_rank else moved(left, places))
