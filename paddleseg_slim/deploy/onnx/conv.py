"""Convolutions, transposed convolutions and pooling."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from onnx import helper

from paddleseg_slim.deploy.onnx.builder import DTYPES, Builder, writes
from paddleseg_slim.deploy.onnx.fold import TRANSPOSED, Folded, fold, scaled_filter
from paddleseg_slim.deploy.onnx.quant import quantized_bias
from paddleseg_slim.errors import UserError
from paddleseg_slim.graph import Node, Value


@writes("conv2d", "depthwise_conv2d")
def _conv(b: Builder, node: Node) -> str:
    _need_nchw(node)
    x, filters = node.value("input"), node.value("filter")
    kernel = list(b.shape(filters)[2:])
    strides, dilations = list(node.attrs["strides"]), list(node.attrs["dilations"])
    attrs: dict[str, Any] = {
        "kernel_shape": kernel,
        "strides": strides,
        "dilations": dilations,
        "group": int(node.attrs["groups"]),
        **_padding(b, node, x, kernel, strides, dilations),
    }
    return _convolve(b, node, "Conv", x, attrs)


@writes("conv2d_transpose", "depthwise_conv2d_transpose")
def _conv_transpose(b: Builder, node: Node) -> str:
    _need_nchw(node)
    x, filters = node.value("x"), node.value("filter")
    kernel, strides = list(b.shape(filters)[2:]), list(node.attrs["strides"])
    dilations = list(node.attrs.get("dilations", [1, 1]))
    pads = _explicit_pads(node)
    extra = list(node.attrs.get("output_padding") or [0, 0])
    if node.attrs.get("padding_algorithm", "EXPLICIT") != "EXPLICIT":
        raise UserError(f"Node {node.name!r} pads by itself; ONNX export lacks that.", "Give the padding as numbers.")
    wanted = b.known_integers(node, "output_size")
    if wanted:
        sizes = b.shape(x)[2:]
        if -1 in sizes:
            raise UserError(f"Node {node.name!r} has an output_size of its own.", "Give a fixed --input_shape.")
        extra = [
            want - ((size - 1) * stride - before - after + dilation * (side - 1) + 1)
            for want, size, stride, before, after, dilation, side in zip(
                wanted, sizes, strides, pads[:2], pads[2:], dilations, kernel
            )
        ]
    attrs = {
        "kernel_shape": kernel,
        "strides": strides,
        "dilations": dilations,
        "group": int(node.attrs["groups"]),
        "pads": pads,
        "output_padding": extra if any(extra) else None,
    }
    return _convolve(b, node, "ConvTranspose", x, attrs)


def _convolve(b: Builder, node: Node, kind: str, x: Value, attrs: dict[str, Any]) -> str:
    """Write the convolution with everything folded into it; the folded nodes are bound to its output."""
    folded = fold(b, node)
    filters = node.value("filter")
    inputs = [b.ref(x), _filter(b, node, filters, folded)]
    if folded.bias is not None:
        bias = folded.bias.astype(np.float32)
        quantized = quantized_bias(b, node, x, filters, bias) if b.int32_bias and node.op not in TRANSPOSED else None
        inputs.append(quantized or b.constant(bias, b.unique(f"{node.name}.bias")))
    name = b.op(kind, inputs, node, last=True, output=folded.out.name, **attrs)
    for absorbed in folded.absorbed:
        b.bind(absorbed.out, name)
    return name


def _filter(b: Builder, node: Node, filters: Value, folded: Folded) -> str:
    if folded.scale is None:
        return b.ref(filters)
    weight = b.array(filters)
    assert weight is not None
    return b.constant(scaled_filter(node, weight, folded.scale), b.unique(f"{node.name}.weight"))


def _need_nchw(node: Node) -> None:
    if node.attrs.get("data_format", "NCHW") not in ("NCHW", "AnyLayout"):
        raise UserError(f"Node {node.name!r} is channels last; ONNX is channels first.", "Build the model in NCHW.")


def _explicit_pads(node: Node) -> list[int]:
    """ONNX order: top, left, bottom, right; Paddle's four are top, bottom, left, right."""
    pads = [int(pad) for pad in node.attrs["paddings"]]
    return [pads[0], pads[2], pads[1], pads[3]] if len(pads) == 4 else [*pads, *pads]


def _padding(
    b: Builder, node: Node, x: Value, kernel: list[int], strides: list[int], dilations: list[int]
) -> dict[str, Any]:
    """The attribute that says how a convolution or pooling pads.

    Paddle's SAME ignores dilation; with stride 1 it does not depend on the size of the input, so it is written out.
    """
    algorithm = node.attrs.get("padding_algorithm", "EXPLICIT")
    if algorithm == "EXPLICIT":
        return {"pads": _explicit_pads(node)}
    if algorithm == "VALID":
        return {"pads": [0, 0, 0, 0]}
    if any(dilation != 1 for dilation in dilations):
        raise UserError(
            f"Node {node.name!r} is dilated and pads SAME, which Paddle takes as no dilation.", "Give its padding."
        )
    before, after = [], []
    for size, side, stride in zip(b.shape(x)[2:], kernel, strides):
        if stride != 1 and side > 1 and size == -1:
            return {"auto_pad": "SAME_UPPER"}
        size = max(size, 1)
        total = max((math.ceil(size / stride) - 1) * stride + side - size, 0) if stride != 1 else side - 1
        before.append(total // 2)
        after.append(total - total // 2)
    return {"pads": [*before, *after]}


@writes("pool2d")
def _pool(b: Builder, node: Node) -> str:
    _need_nchw(node)
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
        **_padding(b, node, x, kernel, strides, [1, 1]),
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
    attrs = {"kernel_shape": kernel, "strides": list(node.attrs["strides"]), "pads": _explicit_pads(node)}
    mode = int(bool(node.attrs.get("ceil_mode")))
    b.nodes.append(helper.make_node("MaxPool", [b.ref(x)], names, node.name, ceil_mode=mode, **attrs))
    area = b.op("ReduceProd", [b.shape_slice(b.ref(x), 2, 4, 4, node)], node, keepdims=0)
    index = b.op("Mod", [names[1], area], node)
    return [names[0], b.op("Cast", [index], node, output=place.name, to=DTYPES[place.dtype])]


def _adaptive_pool(b: Builder, node: Node, x: Value, kind: str, bins: list[int]) -> str:
    """Adaptive pooling: as plain pooling where the bins are equal, else as two matrix products.

    An average over bins of rows, then of columns, is linear: ``A_h x A_w^T``, where row ``i`` of ``A`` is 1 / length on
    the bin ``floor(i n / m) .. ceil((i + 1) n / m)``. The matrices depend on the input size only and are shared.
    """
    sizes = b.shape(x)[2:]
    if all(size != -1 and size % count == 0 for size, count in zip(sizes, bins)):
        steps = [size // count for size, count in zip(sizes, bins)]
        return b.op(f"{kind}Pool", [b.ref(x)], node, last=True, kernel_shape=steps, strides=steps)
    if kind == "Max":
        raise UserError(
            f"Node {node.name!r} is adaptive max pooling into {bins}, which ONNX lacks at this input size.",
            "Give an --input_shape that the bins divide.",
        )
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
    length = str(b.dims(x, axis, axis + 1, node)[0])
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
