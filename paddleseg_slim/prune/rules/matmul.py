"""Matrix products: linear layers, attention, and whatever contracts one axis of two tensors."""

from __future__ import annotations

import numpy as np

from paddleseg_slim.graph.ir import Node, Value
from paddleseg_slim.prune.ids import Labels, factor_at, moved
from paddleseg_slim.prune.walk import RULES, Walk, attr


def _contracted(walk: Walk, node: Node, x: Value, kx: int, y: Value, ky: int) -> np.ndarray | None:
    """Unite the ids of the two axes that are summed over, or pin what meets a fixed one."""
    a, b = walk.axis(x, kx), walk.axis(y, ky)
    if a is not None and b is not None:
        walk.ids.unite(a, b)
        return a
    for ids in (a, b):
        if ids is not None:
            walk.ids.pin(ids, f"{node.name} ({node.op}) contracts them with a fixed axis")
    return None


def _outer(labels: Labels, inner: int, rank: int, out_rank: int, last: bool) -> Labels:
    """Labels of an operand without its contracted axis, in the axes of the result."""
    own = rank - 1 if inner == rank - 2 else rank - 2
    places: list[int | None] = [a + out_rank - rank for a in range(rank)]
    places[own] = out_rank - 1 if last else out_rank - 2
    places[inner] = None
    return moved(tuple(f for f in labels if inner not in f.axes), places)


@RULES.register("matmul", "bmm")
def matmul(walk: Walk, node: Node) -> None:
    """``[..., M, K] @ [..., K, N]``, either transposed; a linear layer is one whose second operand is a parameter."""
    x, y = node.value("x"), node.value("y")
    sx, sy, so = walk.shape(x), walk.shape(y), walk.shape(node.out)
    if len(sx) < 2 or len(sy) < 2:
        walk.pin((*walk.of(x), *walk.of(y)), f"{node.name}: a product with a vector")
        return
    kx = len(sx) - (2 if attr(node, "transpose_x", False) else 1)
    ky = len(sy) - (1 if attr(node, "transpose_y", False) else 2)
    if walk.is_weight(y):
        walk.made(y, len(sy) - 1 if ky == len(sy) - 2 else len(sy) - 2, node)
    inner = _contracted(walk, node, x, kx, y, ky)
    walk.read(node, "x", factor_at(walk.of(x), kx))
    rank = len(so)
    left = _outer(walk.of(x), kx, len(sx), rank, last=False)
    right = _outer(walk.of(y), ky, len(sy), rank, last=True)
    batch_x, batch_y = list(sx[:-2]), list(sy[:-2])
    sizes_x = [1] * (rank - len(sx)) + batch_x + [so[-2], 1]
    sizes_y = [1] * (rank - len(sy)) + batch_y + [1, so[-1]]
    labels = walk.joined([(left, sizes_x), (right, sizes_y)], node)
    walk.costs(node, inner, *(f.ids for f in labels))
    walk.set(node.out, labels)
