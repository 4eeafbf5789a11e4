"""Small ONNX files built with the ONNX package alone, for tests of the engines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def conv_net(path: Path, *, width: int = 8, layers: int = 2, quantized: bool = False, seed: int = 0) -> Path:
    """Write a chain of 3x3 convolutions and ReLUs, ``[N, 3, H, W] -> [N, width, H, W]``, in float or as Q/DQ int8."""
    generator = np.random.default_rng(seed)
    nodes, constants = [], []

    def constant(name: str, value: np.ndarray) -> str:
        constants.append(numpy_helper.from_array(value, name))
        return name

    value, channels = "x", 3
    for index in range(layers):
        name = f"conv{index}"
        weight = (generator.standard_normal((width, channels, 3, 3)) / np.sqrt(9 * channels)).astype(np.float32)
        if quantized:
            scale = constant(f"{name}.in_scale", np.float32(0.03))
            zero = constant(f"{name}.in_zero", np.uint8(128 if index == 0 else 0))
            nodes.append(helper.make_node("QuantizeLinear", [value, scale, zero], [f"{name}.q"], f"{name}.q"))
            nodes.append(helper.make_node("DequantizeLinear", [f"{name}.q", scale, zero], [f"{name}.dq"], f"{name}.dq"))
            scales = np.abs(weight).max(axis=(1, 2, 3)) / 63
            integers = np.round(weight / scales[:, None, None, None]).astype(np.int8)
            parts = [constant(f"{name}.w", integers), constant(f"{name}.w_scale", scales.astype(np.float32))]
            parts.append(constant(f"{name}.w_zero", np.zeros(width, np.int8)))
            nodes.append(helper.make_node("DequantizeLinear", parts, [f"{name}.wf"], f"{name}.wdq", axis=0))
            inputs = [f"{name}.dq", f"{name}.wf"]
        else:
            inputs = [value, constant(f"{name}.w", weight)]
        inputs.append(constant(f"{name}.b", np.zeros(width, np.float32)))
        nodes.append(helper.make_node("Conv", inputs, [f"{name}.y"], name, pads=[1, 1, 1, 1]))
        value = "y" if index == layers - 1 else f"relu{index}.y"
        nodes.append(helper.make_node("Relu", [f"{name}.y"], [value], f"relu{index}"))
        channels = width
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, "height", "width"])
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", width, "height", "width"])
    graph = helper.make_graph(nodes, "net", [image], [output], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))
    return path
