"""The writer: a graph and its tensors as a checked ONNX model."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper

from paddleseg_slim.deploy.head import with_head
from paddleseg_slim.deploy.onnx.builder import DTYPES, Builder
from paddleseg_slim.errors import UserError
from paddleseg_slim.files import atomic_file
from paddleseg_slim.graph import Graph, GraphLayer, Value, flatten
from paddleseg_slim.graph.host import host_nodes
from paddleseg_slim.version import __version__

OPSETS = range(13, 22)
"""The operator sets that can be written: 13 is the first with per-channel quantization."""

_AXES = ("batch", "channels", "height", "width")
_IR_VERSIONS = {13: 7, 14: 7, 15: 8, 16: 8, 17: 8, 18: 8, 19: 9, 20: 9, 21: 10}


def write_onnx(
    layer: GraphLayer,
    path: str | os.PathLike[str],
    *,
    opset: int = 17,
    input_shape: Sequence[int] | None = None,
    output_op: str = "none",
    logits: Callable[[Any], Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
    int32_bias: bool = False,
    signed_middle: bool = False,
    integer_sizes: bool = False,
) -> None:
    """Write a model in evaluation as an ONNX file.

    BatchNorm and biases are folded into convolutions; quantizers become QuantizeLinear / DequantizeLinear; tensors
    are named as in the graph. The file is checked by `onnx.checker` with strict shape inference before it has its name.

    Args:
        layer: the model; its eval graph is written.
        path: of the file.
        opset: version of the operator set, one of `OPSETS`.
        input_shape: of the first input, -1 for a dynamic axis; default: as captured.
        output_op: ``argmax`` (int32 ``[N, H, W]``), ``softmax`` or ``none``, on the logits.
        logits: picks the logits among the model's outputs; default the first. Needed for ``argmax`` and ``softmax``
            alone: with ``none`` and no ``logits``, all outputs are kept.
        metadata: written into the file as strings; what is no string as JSON.
        int32_bias: write biases of quantized convolutions as int32 (older engines fuse only those).
        signed_middle: write uint8 activations with the zero point 128 as int8 with 0: the same numbers, and OpenVINO
            spares the correction for a zero point.
        integer_sizes: read the sizes of dequantized activations of the integers: for a Shape, engines on a CPU would
            dequantize the whole tensor.

    Raises:
        UserError: an op has no function (it is named with its node), or needs a fixed input shape or another opset.
    """
    if output_op != "none" or logits is not None:
        layer = with_head(layer, logits or (lambda outputs: flatten(outputs)[0]), output_op)
    graph = layer.eval_graph
    shapes = [tuple(value.shape) for value in graph.inputs]
    if input_shape is not None:
        shapes[0] = _fixed(graph.inputs[0], tuple(input_shape))
    tensors = {name: layer.tensor(name).numpy() for name in graph.parameters}
    model = graph_to_onnx(
        graph,
        tensors,
        shapes,
        opset=opset,
        int32_bias=int32_bias,
        signed_middle=signed_middle,
        integer_sizes=integer_sizes,
        metadata=metadata,
    )
    with atomic_file(path) as temporary:
        onnx.save(model, str(temporary))


def _fixed(value: Value, shape: tuple[int, ...]) -> tuple[int, ...]:
    fits = len(shape) == len(value.shape) and all(own in (-1, wanted) for own, wanted in zip(value.shape, shape))
    if not fits:
        raise UserError(
            f"The model takes {list(value.shape)}, the input shape asked for is {list(shape)}.",
            "Leave --input_shape out, or capture the model again with that shape.",
        )
    return shape


def graph_to_onnx(
    graph: Graph,
    tensors: Mapping[str, np.ndarray],
    shapes: Sequence[Sequence[int]] | None = None,
    *,
    opset: int = 17,
    int32_bias: bool = False,
    signed_middle: bool = False,
    integer_sizes: bool = False,
    metadata: Mapping[str, Any] | None = None,
    check: bool = True,
) -> onnx.ModelProto:
    """Make an ONNX model of any graph, a part of one included.

    Args:
        graph: what is written; its inputs and outputs keep their names (see `output_name` for the exception).
        tensors: an array for every parameter.
        shapes: of every input; default: their own.
        opset: see `write_onnx`.
        int32_bias: see `write_onnx`.
        signed_middle: see `write_onnx`.
        integer_sizes: see `write_onnx`.
        metadata: see `write_onnx`.
        check: run the ONNX checker with strict shape inference.

    Raises:
        UserError: see `write_onnx`.
    """
    if opset not in OPSETS:
        raise UserError(f"opset is {opset}.", f"Give one from {OPSETS.start} to {OPSETS.stop - 1}; 17 suits most.")
    shapes = [tuple(value.shape) for value in graph.inputs] if shapes is None else shapes
    builder = Builder(graph, tensors, shapes, opset, int32_bias, signed_middle, integer_sizes)
    outputs = list(dict.fromkeys(graph.output_values()))
    hosts = host_nodes(graph)
    needed = graph.ancestors(outputs)
    for node in needed:
        if node not in hosts and not builder.knows(node.out) and builder.array(node.out) is None:
            builder.write(node)
    for value in outputs:
        _name_output(builder, value)
    several = len(graph.inputs) > 1
    proto = helper.make_graph(
        builder.nodes,
        "model",
        [_info(v, v.name, shape, f"{v.name}." if several else "") for v, shape in zip(graph.inputs, shapes)],
        [_info(v, output_name(v), builder.shape(v), None) for v in outputs],
        list(builder.initializers.values()),
    )
    model = helper.make_model(
        proto,
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=_IR_VERSIONS[opset],
        producer_name="paddleseg_slim",
        producer_version=__version__,
    )
    strings = {key: item if isinstance(item, str) else json.dumps(item) for key, item in (metadata or {}).items()}
    helper.set_model_props(model, strings)
    if check:
        onnx.checker.check_model(model, full_check=True)
    return model


def _name_output(builder: Builder, value: Value) -> None:
    """Let an output have its own name also where it is an input, a constant or the same as another value."""
    name = builder.ref(value)
    if name != output_name(value):
        builder.nodes.append(helper.make_node("Identity", [name], [output_name(value)], f"{value.name}/Identity"))


def output_name(value: Value) -> str:
    """Name of an output: that of the value, but ONNX wants another one where it is an input or a constant itself."""
    return value.name if value.producer is not None else f"{value.name}.out"


def _info(value: Value, name: str, shape: Sequence[int], prefix: str | None) -> onnx.ValueInfoProto:
    """Name, type and shape. Open axes are called ``batch``, ``{prefix}height``, ...: what has one name has one size."""
    sides: list[int | str | None] = []
    for axis, size in enumerate(shape):
        if size != -1:
            sides.append(size)
        elif axis == 0:
            sides.append("batch")
        else:
            sides.append(None if prefix is None or axis >= len(_AXES) else prefix + _AXES[axis])
    return helper.make_tensor_value_info(name, DTYPES[value.dtype], sides)
