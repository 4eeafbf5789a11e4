"""Convolutions: plain, transposed, deformable, and unfold."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from paddleseg_slim.deploy.onnx.builder import Builder, writes
from paddleseg_slim.deploy.onnx.channels import add_channels
from paddleseg_slim.deploy.onnx.fold import TRANSPOSED, Folded, fold, scaled_filter
from paddleseg_slim.deploy.onnx.quant import quantized_bias
from paddleseg_slim.errors import UserError
from paddleseg_slim.graph import Node, Value


@writes("conv2d", "depthwise_conv2d")
def _conv(b: Builder, node: Node) -> str:
    need_nchw(node)
    x, filters = node.value("input"), node.value("filter")
    kernel = list(b.shape(filters)[2:])
    strides, dilations = list(node.attrs["strides"]), list(node.attrs["dilations"])
    attrs: dict[str, Any] = {
        "kernel_shape": kernel,
        "strides": strides,
        "dilations": dilations,
        "group": int(node.attrs["groups"]),
        **padding(b, node, x, kernel, strides, dilations),
    }
    return _convolve(b, node, "Conv", x, attrs)


@writes("conv2d_transpose", "depthwise_conv2d_transpose")
def _conv_transpose(b: Builder, node: Node) -> str:
    need_nchw(node)
    x, filters = node.value("x"), node.value("filter")
    kernel, strides = list(b.shape(filters)[2:]), list(node.attrs["strides"])
    dilations = list(node.attrs.get("dilations", [1, 1]))
    pads = explicit_pads(node)
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
    added = add_channels(b, node, folded)
    inputs = [_with_channels(b, node, x, added), _filter(b, node, x, folded, added)]
    attrs["group"] += added
    if folded.bias is not None:
        bias = np.pad(folded.bias, (0, added)).astype(np.float32)
        quantized = quantized_bias(b, node, x, filters, bias) if b.int32_bias and node.op not in TRANSPOSED else None
        inputs.append(quantized or b.constant(bias, b.unique(f"{node.name}.bias")))
    name = b.op(kind, inputs, node, last=True, output=folded.out.name, **attrs)
    for absorbed in folded.absorbed:
        b.bind(absorbed.out, name)
    return name


def _with_channels(b: Builder, node: Node, x: Value, added: int) -> str:
    """``x`` with this many channels of zeros behind the last."""
    if not added:
        return b.ref(x)
    return b.op("Pad", [b.ref(x), b.integers([0, 0, 0, 0, 0, added, 0, 0])], node)


def _filter(b: Builder, node: Node, x: Value, folded: Folded, added: int) -> str:
    filters, read = node.value("filter"), b.added_channels.get(x, 0)
    if folded.scale is None and not added and not read:
        return b.ref(filters)
    weight = b.array(filters)
    assert weight is not None
    if folded.scale is not None:
        weight = scaled_filter(node, weight, folded.scale)
    weight = np.pad(weight, ((0, added), (0, read), (0, 0), (0, 0)))
    return b.constant(weight, b.unique(f"{node.name}.weight"))


def need_nchw(node: Node) -> None:
    """Refuse a node that is channels last."""
    if node.attrs.get("data_format", "NCHW") not in ("NCHW", "AnyLayout"):
        raise UserError(f"Node {node.name!r} is channels last; ONNX is channels first.", "Build the model in NCHW.")


def explicit_pads(node: Node) -> list[int]:
    """ONNX order: top, left, bottom, right; Paddle's four are top, bottom, left, right."""
    pads = [int(pad) for pad in node.attrs["paddings"]]
    return [pads[0], pads[2], pads[1], pads[3]] if len(pads) == 4 else [*pads, *pads]


def padding(
    b: Builder, node: Node, x: Value, kernel: list[int], strides: list[int], dilations: list[int]
) -> dict[str, Any]:
    """The attribute that says how a convolution or pooling pads.

    Paddle's SAME ignores dilation; with stride 1 it does not depend on the size of the input, so it is written out.
    """
    algorithm = node.attrs.get("padding_algorithm", "EXPLICIT")
    if algorithm == "EXPLICIT":
        return {"pads": explicit_pads(node)}
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


@writes("deformable_conv")
def _deformable_conv(b: Builder, node: Node) -> str:
    """Deformable convolution, version 2 with a mask (Zhu et al., 2019); offsets are (y, x) a point in both worlds."""
    if b.opset < 19:
        raise UserError(f"Node {node.name!r} is a deformable convolution, which ONNX has from opset 19 on.",
                        "Give --opset 19; not every engine has it.")  # fmt: skip
    mask = node.inputs.get("mask")
    inputs = [*b.refs(node, "x", "filter", "offset"), "", *([b.ref(mask)] if isinstance(mask, Value) else [])]
    return b.op(
        "DeformConv",
        inputs if mask is not None else inputs[:3],
        node,
        last=True,
        kernel_shape=list(b.shape(node.value("filter"))[2:]),
        strides=[int(item) for item in node.attrs["strides"]],
        pads=explicit_pads(node),
        dilations=[int(item) for item in node.attrs["dilations"]],
        group=int(node.attrs["groups"]),
        offset_group=int(node.attrs["deformable_groups"]),
    )


@writes("unfold")
def _unfold(b: Builder, node: Node) -> str:
    """Patches as columns: a grouped convolution whose filters pick one place of the patch each, then flattened."""
    x, channels = node.value("x"), b.shape(node.value("x"))[1]
    kernel = [int(side) for side in node.attrs["kernel_sizes"]]
    if channels == -1:
        raise UserError(f"Node {node.name!r} unfolds any number of channels.", "Give a fixed --input_shape.")
    places = kernel[0] * kernel[1]
    picks = np.tile(np.eye(places, dtype=np.float32).reshape(places, 1, *kernel), (channels, 1, 1, 1))
    top, left, bottom, right = (int(pad) for pad in node.attrs["paddings"])
    columns = b.op(
        "Conv",
        [b.ref(x), b.constant(picks)],
        node,
        kernel_shape=kernel,
        strides=[int(item) for item in node.attrs["strides"]],
        dilations=[int(item) for item in node.attrs["dilations"]],
        pads=[top, left, bottom, right],
        group=channels,
    )
    return b.op("Reshape", [columns, b.integers([0, channels * places, -1])], node, last=True)
