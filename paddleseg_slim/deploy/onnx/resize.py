"""Interpolation, padding and sampling of images."""

from __future__ import annotations

from typing import Any

import numpy as np

from paddleseg_slim.deploy.onnx.builder import Builder, Number, writes
from paddleseg_slim.errors import UserError
from paddleseg_slim.graph import Node

_MODES = {"bilinear_interp": "linear", "nearest_interp": "nearest", "bicubic_interp": "cubic"}


@writes(*_MODES)
def _resize(b: Builder, node: Node) -> str:
    """Paddle's coordinate rules in ONNX's words; a picture of one pixel is only repeated."""
    if node.attrs.get("data_format", "NCHW") != "NCHW":
        raise UserError(f"Node {node.name!r} is channels last; ONNX is channels first.", "Build the model in NCHW.")
    x = node.value("x")
    sizes = _sizes(b, node)
    if sizes is not None and b.shape(x)[2:] == (1, 1):
        return b.op("Expand", [b.ref(x), b.join([1, 1, *sizes], node)], node, last=True)
    if sizes is not None and tuple(sizes) == b.shape(x)[2:]:
        return b.ref(x)
    scales = _scales(b, node, sizes)
    inputs = [b.ref(x), ""]
    if scales is None:
        assert sizes is not None
        inputs += ["", b.join([*b.dims(x, 0, 2, node), *sizes], node)]
    else:
        inputs.append(b.constant(np.array([1.0, 1.0, *scales], np.float32)))
    return b.op("Resize", inputs, node, last=True, **_rule(node))


def _scales(b: Builder, node: Node, sizes: list[Number] | None) -> list[float] | None:
    """Factors of height and width; where ``sizes`` are given, only if they are known multiples of the input's.

    ONNX Runtime has a fast kernel for integer factors that it does not take for the same sizes.
    """
    if sizes is None:
        scales = [float(scale) for scale in node.attrs["scale"]] or [_given(b, node, "scale_tensor")]
        return scales * 2 if len(scales) == 1 else scales
    result = []
    for before, after in zip(b.shape(node.value("x"))[2:], sizes):
        if before < 1 or not isinstance(after, int) or after % before:
            return None
        result.append(after / before)
    return result


def _given(b: Builder, node: Node, argument: str) -> float:
    return float(np.asarray(b.known(node, argument)).reshape(-1)[0])


def _sizes(b: Builder, node: Node) -> list[Number] | None:
    """Height and width of the output; None when they come from a scale."""
    for argument in ("size_tensor", "out_size"):
        if node.inputs.get(argument) is not None:
            return b.numbers(node, argument)
    if node.attrs.get("scale") or node.inputs.get("scale_tensor") is not None:
        return None
    return [int(node.attrs["out_h"]), int(node.attrs["out_w"])]


def _rule(node: Node) -> dict[str, Any]:
    corners = bool(node.attrs["align_corners"])
    mode = _MODES[node.op]
    if mode == "nearest":
        if corners:
            return {
                "mode": mode,
                "coordinate_transformation_mode": "align_corners",
                "nearest_mode": "round_prefer_ceil",
            }
        return {"mode": mode, "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    half = int(node.attrs.get("align_mode", 1)) == 0 or mode == "cubic"
    place = "align_corners" if corners else "half_pixel" if half else "asymmetric"
    return {"mode": mode, "coordinate_transformation_mode": place} | (
        {"cubic_coeff_a": -0.75} if mode == "cubic" else {}
    )


@writes("pad3d")
def _pad3d(b: Builder, node: Node) -> str:
    """Paddle: left, right, top, bottom, front, back of the last three axes; ONNX: all starts, then all ends."""
    if node.attrs["data_format"] not in ("NCDHW", "NCHW"):
        raise UserError(f"Node {node.name!r} is channels last; ONNX is channels first.", "Build the model in NCHW.")
    pads = b.known_integers(node, "paddings")
    rank = b.rank(node.value("x"))
    starts, ends = [0] * rank, [0] * rank
    for place in range(len(pads) // 2):
        if place < rank - 2:
            starts[rank - 1 - place], ends[rank - 1 - place] = pads[2 * place], pads[2 * place + 1]
    return _pad(b, node, [*starts, *ends], node.attrs["mode"], node.attrs.get("pad_value", 0.0))


@writes("pad")
def _pad_all(b: Builder, node: Node) -> str:
    pads = [int(pad) for pad in node.attrs["paddings"]]
    return _pad(b, node, [*pads[::2], *pads[1::2]], "constant", b.known(node, "pad_value", 0.0))


_PAD_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def _pad(b: Builder, node: Node, pads: list[int], mode: str, value: object) -> str:
    if mode == "circular" and b.opset < 19:
        raise UserError(f"Node {node.name!r} pads circularly, which ONNX has from opset 19 on.", "Give --opset 19.")
    x = node.value("x")
    inputs = [b.ref(x), b.integers(pads)]
    if mode == "constant":
        inputs.append(b.scalar(float(np.asarray(value).reshape(-1)[0]), x.dtype))
    return b.op("Pad", inputs, node, last=True, mode=_PAD_MODES[mode])


@writes("grid_sample")
def _grid_sample(b: Builder, node: Node) -> str:
    if b.opset < 16:
        raise UserError(f"Node {node.name!r} samples a grid, which ONNX has from opset 16 on.", "Give --opset 16.")
    mode = str(node.attrs["mode"])
    mode = {"bilinear": "linear"}.get(mode, mode) if b.opset >= 20 else mode
    return b.op(
        "GridSample",
        b.refs(node, "x", "grid"),
        node,
        last=True,
        mode=mode,
        padding_mode=str(node.attrs["padding_mode"]),
        align_corners=int(bool(node.attrs["align_corners"])),
    )
