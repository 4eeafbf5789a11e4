"""Pooling: plain, global, adaptive."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import helper

from paddleseg_slim.deploy.onnx.builder import DTYPES, Builder, Size, writes
from paddleseg_slim.deploy.onnx.conv import explicit_pads, need_nchw, padding
from paddleseg_slim.errors import UserError
from paddleseg_slim.graph import Node, Value


@writes("pool2d")
def _pool(b: Builder, node: Node) -> str:
    need_nchw(node)
    x = node.value("x")
    kind = "Average" if node.attrs["pooling_type"] == "avg" else "Max"
    kernel = b.known_integers(node, "kernel_size")
    if node.attrs["global_pooling"] or (node.attrs["adaptive"] and kernel == [1, 1]):
        return b.op(f"Global{kind}Pool", [b.ref(x)], node, last=True)
    if node.attrs["adaptive"]:
        return _adaptive_pool(b, node, x, kind, kernel)
    strides = list(node.attrs["strides"])
    attrs: dict[str, Any] = {
        "kernel_shape": kernel,
        "strides": strides,
        "ceil_mode": int(node.attrs["ceil_mode"]) or None,
        "count_include_pad": (0 if node.attrs["exclusive"] else 1) if kind == "Average" else None,
        **padding(b, node, x, kernel, strides, [1, 1]),
    }
    return b.op(f"{kind}Pool", [b.ref(x)], node, last=True, **attrs)


@writes("max_pool2d_with_index")
def _max_pool_with_index(b: Builder, node: Node) -> str | list[str]:
    """The index counts inside one channel in Paddle, over the whole tensor in ONNX; mostly nobody reads it."""
    x, (_, place) = node.value("x"), node.output_values()
    kernel, unread = b.known_integers(node, "kernel_size"), not b.graph.users(place) and not b.graph.is_output(place)
    adaptive, everywhere = bool(node.attrs.get("adaptive")), bool(node.attrs.get("global_pooling"))
    if unread and (everywhere or (adaptive and kernel == [1, 1])):
        return b.op("GlobalMaxPool", [b.ref(x)], node, last=True)
    if unread and adaptive:
        return _adaptive_pool(b, node, x, "Max", kernel)
    if adaptive or everywhere:
        raise UserError(f"Node {node.name!r} gives the places of an adaptive pooling; ONNX lacks that.", "Remove it.")
    names = [node.out.name, b.unique(f"{node.name}/place")]
    attrs = {"kernel_shape": kernel, "strides": list(node.attrs["strides"]), "pads": explicit_pads(node)}
    mode = int(bool(node.attrs.get("ceil_mode")))
    b.nodes.append(helper.make_node("MaxPool", [b.ref(x)], names, node.name, ceil_mode=mode, **attrs))
    area = b.op("ReduceProd", [b.shape_slice(b.ref(x), 2, 4, 4, node)], node, keepdims=0)
    index = b.op("Mod", [names[1], area], node)
    return [names[0], b.op("Cast", [index], node, output=place.name, to=DTYPES[place.dtype])]


def _adaptive_pool(b: Builder, node: Node, x: Value, kind: str, bins: list[int]) -> str:
    """Adaptive pooling: as plain pooling where the bins are equal, else averages as two matrix products.

    An average over bins of rows, then of columns, is linear: ``A_h x A_w^T``, where row ``i`` of ``A`` is 1 / length on
    the bin ``floor(i n / m) .. ceil((i + 1) n / m)``. The matrices depend on the input size only and are shared.
    """
    sizes = b.shape(x)[2:]
    if all(size != -1 and size % count == 0 for size, count in zip(sizes, bins)):
        steps = [size // count for size, count in zip(sizes, bins)]
        return b.op(f"{kind}Pool", [b.ref(x)], node, last=True, kernel_shape=steps, strides=steps)
    if kind == "Max":
        return _adaptive_max(b, node, x, bins)
    columns = b.op("MatMul", [b.ref(x), _bins(b, node, x, 3, bins[1], transposed=True)], node)
    return b.op("MatMul", [_bins(b, node, x, 2, bins[0], transposed=False), columns], node, last=True)


def _bins(b: Builder, node: Node, x: Value, axis: int, count: int, transposed: bool) -> str:
    """Name of the averaging matrix ``[count, n]`` of an axis of ``x``, ``n`` its size (transposed: ``[n, count]``)."""
    size = b.shape(x)[axis]
    step = np.arange(count, dtype=np.int64)
    column = (1, count) if transposed else (count, 1)
    row = (-1, 1) if transposed else (1, -1)
    if size != -1:
        places = np.arange(size).reshape(row)
        start, end = (step * size // count).reshape(column), (-((-(step + 1) * size) // count)).reshape(column)
        return b.constant(((places >= start) & (places < end)).astype(np.float32) / (end - start).astype(np.float32))
    length = b.sizes(Size(x, axis, axis + 1), node)
    key = ("bins", length, count, transposed)
    if key not in b.cache:
        b.cache[key] = _bins_of(b, node, length, step.reshape(column), b.integers(row))
    return b.cache[key]


def _bins_of(b: Builder, node: Node, length: str, step: np.ndarray, line: str) -> str:
    """The same, made from the name of the size ``[1]`` when the model runs."""
    count = b.constant(np.array(step.size, np.int64))
    stop = b.op("Reshape", [length, b.integers([])], node)
    places = b.op("Range", [b.scalar(0, "int64"), stop, b.scalar(1, "int64")], node)
    places = b.op("Reshape", [places, line], node)
    start = b.op("Div", [b.op("Mul", [b.constant(step), length], node), count], node)
    end = b.op("Mul", [b.constant(step + 1), length], node)
    end = b.op("Div", [b.op("Add", [end, b.constant(np.array(step.size - 1, np.int64))], node), count], node)
    inside = [b.op("GreaterOrEqual", [places, start], node), b.op("Less", [places, end], node)]
    mask = b.cast(b.op("And", inside, node), node, "float32")
    return b.op("Div", [mask, b.cast(b.op("Sub", [end, start], node), node, "float32")], node)


def _adaptive_max(b: Builder, node: Node, x: Value, bins: list[int]) -> str:
    """The largest of each bin of rows, then of columns: a Slice and a ReduceMax a bin."""
    name = b.ref(x)
    for axis, count in zip((2, 3), bins):
        size = b.shape(x)[axis]
        length = size if size != -1 else b.sizes(Size(x, axis, axis + 1), node)
        parts = []
        for place in range(count):
            bounds = [_bin_edge(b, node, length, place, count), _bin_edge(b, node, length, place + 1, count, True)]
            part = b.op("Slice", [name, *bounds, b.integers([axis])], node)
            parts.append(_reduce_max(b, node, part, axis))
        name = parts[0] if count == 1 else b.op("Concat", parts, node, last=axis == 3, axis=axis)
    return name


def _bin_edge(b: Builder, node: Node, length: int | str, place: int, count: int, up: bool = False) -> str:
    """Name of ``place * length / count`` as int64 ``[1]``, rounded down or ``up``."""
    extra = count - 1 if up else 0
    if isinstance(length, int):
        return b.integers([(place * length + extra) // count])
    key = ("bin", length, place, count, up)
    if key not in b.cache:
        product = b.op("Mul", [length, b.integers([place])], node)
        product = b.op("Add", [product, b.integers([extra])], node) if extra else product
        b.cache[key] = b.op("Div", [product, b.integers([count])], node)
    return b.cache[key]


def _reduce_max(b: Builder, node: Node, name: str, axis: int) -> str:
    if b.opset >= 18:
        return b.op("ReduceMax", [name, b.integers([axis])], node, keepdims=1)
    return b.op("ReduceMax", [name], node, axes=[axis], keepdims=1)
