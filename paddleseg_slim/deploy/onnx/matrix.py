"""Matrix products and look-ups."""

from __future__ import annotations

import numpy as np

from paddleseg_slim.deploy.onnx.builder import Builder, writes
from paddleseg_slim.errors import UserError
from paddleseg_slim.graph import Node, Value
from paddleseg_slim.graph.ir import slot_values


def _operand(b: Builder, node: Node, value: Value, transposed: bool) -> str:
    name, rank = b.ref(value), b.rank(value)
    if not transposed or rank < 2:
        return name
    return b.op("Transpose", [name], node, perm=[*range(rank - 2), rank - 1, rank - 2])


@writes("matmul")
def _matmul(b: Builder, node: Node) -> str:
    operands = [_operand(b, node, node.value(side), bool(node.attrs.get(f"transpose_{side}"))) for side in ("x", "y")]
    return b.op("MatMul", operands, node, last=True)


@writes("bmm", "mv", "dot")
def _product(b: Builder, node: Node) -> str:
    if node.op == "dot":
        product = b.op("Mul", b.refs(node, "x", "y"), node)
        return b.op("ReduceSum", [product, b.integers([-1])], node, last=True, keepdims=0)
    return b.op("MatMul", b.refs(node, "x", "vec" if node.op == "mv" else "y"), node, last=True)


@writes("addmm", "baddbmm")
def _addmm(b: Builder, node: Node) -> str:
    addend, x, y = b.refs(node, "input", "x", "y")
    product = b.op("MatMul", [x, y], node)
    for key, name in (("alpha", product), ("beta", addend)):
        factor = float(node.attrs.get(key, 1.0))
        if factor != 1.0:
            scaled = b.op("Mul", [name, b.scalar(factor)], node)
            product, addend = (scaled, addend) if key == "alpha" else (product, scaled)
    return b.op("Add", [product, addend], node, last=True)


@writes("einsum")
def _einsum(b: Builder, node: Node) -> list[str]:
    names = [b.ref(value) for value in slot_values(node.inputs["x"])]
    return [b.op("Einsum", names, node, last=True, equation=str(node.attrs["equation"]))]


@writes("gather", "index_select")
def _gather(b: Builder, node: Node) -> str:
    axis = int(np.asarray(b.known(node, "axis", 0)).reshape(-1)[0])
    return b.op("Gather", b.refs(node, "x", "index"), node, last=True, axis=axis)


@writes("gather_nd")
def _gather_nd(b: Builder, node: Node) -> str:
    x, index = b.refs(node, "x", "index")
    if node.value("index").dtype != "int64":
        index = b.cast(index, node, "int64")
    return b.op("GatherND", [x, index], node, last=True)


@writes("take_along_axis")
def _take_along_axis(b: Builder, node: Node) -> str:
    return b.op("GatherElements", b.refs(node, "arr", "indices"), node, last=True, axis=int(node.attrs["axis"]))


@writes("embedding")
def _embedding(b: Builder, node: Node) -> str:
    if int(node.attrs.get("padding_idx", -1)) >= 0:
        raise UserError(f"Embedding {node.name!r} has a padding index; ONNX export lacks that.", "Build it without.")
    return b.op("Gather", b.refs(node, "weight", "x"), node, last=True, axis=0)


@writes("one_hot")
def _one_hot(b: Builder, node: Node) -> str:
    depth = b.integers([int(np.asarray(b.known(node, "num_classes")).reshape(-1)[0])])
    values = b.constant(np.array([0, 1], node.out.dtype))
    return b.op("OneHot", [*b.refs(node, "x"), depth, values], node, last=True, axis=-1)


@writes("nonzero")
def _nonzero(b: Builder, node: Node) -> str:
    places = b.op("NonZero", b.refs(node, "condition"), node)
    return b.op("Transpose", [places], node, last=True, perm=[1, 0])
