"""Reductions: sums, means, extremes, places of extremes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from paddleseg_slim.deploy.onnx.builder import DTYPES, Builder, writes
from paddleseg_slim.graph import Node

_KINDS = {
    "mean": "ReduceMean",
    "sum": "ReduceSum",
    "max": "ReduceMax",
    "min": "ReduceMin",
    "prod": "ReduceProd",
    "amax": "ReduceMax",
    "amin": "ReduceMin",
    "logsumexp": "ReduceLogSumExp",
}


def reduce(
    b: Builder, node: Node, kind: str, x: str, axes: Sequence[int] | None, keepdims: bool, last: bool = False
) -> str:
    """Add a reduction over ``axes`` (None: all); they became an input in opset 18, of ReduceSum in 13."""
    keep = int(keepdims)
    if axes is None:
        return b.op(kind, [x], node, last=last, keepdims=keep)
    if b.opset >= 18 or kind == "ReduceSum":
        return b.op(kind, [x, b.integers(axes)], node, last=last, keepdims=keep)
    return b.op(kind, [x], node, last=last, axes=list(axes), keepdims=keep)


@writes(*_KINDS)
def _reduction(b: Builder, node: Node) -> str:
    x = node.value("x")
    axes = b.known_integers(node, "axis", node.attrs.get("dims") or ())
    every = not axes or bool(node.attrs.get("reduce_all"))
    name = b.ref(x)
    if x.dtype == "bool":
        name = b.cast(name, node, node.out.dtype)
    return reduce(b, node, _KINDS[node.op], name, None if every else axes, bool(node.attrs.get("keepdim")), last=True)


@writes("any", "all")
def _logical(b: Builder, node: Node) -> str:
    axes = b.known_integers(node, "axis")
    kind = "ReduceMax" if node.op == "any" else "ReduceMin"
    numbers = b.cast(b.ref(node.value("x")), node, "int32")
    result = reduce(b, node, kind, numbers, axes or None, bool(node.attrs.get("keepdim")))
    return b.op("Cast", [result], node, last=True, to=DTYPES["bool"])


@writes("argmax", "argmin")
def _arg(b: Builder, node: Node) -> str:
    kind = "ArgMax" if node.op == "argmax" else "ArgMin"
    x = b.ref(node.value("x"))
    axis, keep = int(np.asarray(b.known(node, "axis", 0)).reshape(-1)[0]), int(bool(node.attrs["keepdims"]))
    if node.attrs["flatten"]:
        x, axis, keep = b.op("Reshape", [x, b.integers([-1])], node), 0, 0
    plain = node.out.dtype == "int64"
    place = b.op(kind, [x], node, last=plain, axis=axis, keepdims=keep)
    return place if plain else b.op("Cast", [place], node, last=True, to=DTYPES[node.out.dtype])


@writes("cumsum")
def _cumsum(b: Builder, node: Node) -> str:
    x, axis = b.ref(node.value("x")), int(np.asarray(b.known(node, "axis", -1)).reshape(-1)[0])
    if node.attrs.get("flatten"):
        x, axis = b.op("Reshape", [x, b.integers([-1])], node), 0
    flags: dict[str, Any] = {key: int(bool(node.attrs.get(key))) for key in ("exclusive", "reverse")}
    return b.op("CumSum", [x, b.scalar(axis, "int64")], node, last=True, **flags)


@writes("topk")
def _topk(b: Builder, node: Node) -> list[str]:
    from onnx import helper

    names = [value.name for value in node.output_values()]
    count = b.integers([int(np.asarray(b.known(node, "k", 1)).reshape(-1)[0])])
    flags = {key: int(bool(node.attrs.get(key, True))) for key in ("largest", "sorted")}
    inputs = [b.ref(node.value("x")), count]
    b.nodes.append(helper.make_node("TopK", inputs, names, node.name, axis=int(node.attrs["axis"]), **flags))
    return names
