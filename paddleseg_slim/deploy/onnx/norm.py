"""Normalizations and softmax."""

from __future__ import annotations

import numpy as np

from paddleseg_slim.deploy.onnx.builder import Builder, writes
from paddleseg_slim.deploy.onnx.reduce import reduce
from paddleseg_slim.errors import UserError
from paddleseg_slim.graph import Node, Value, uses_stored_statistics


def _or_constant(b: Builder, node: Node, argument: str, size: int, number: float) -> str:
    value = node.inputs.get(argument)
    return b.ref(value) if isinstance(value, Value) else b.constant(np.full(size, number, np.float32))


@writes("batch_norm")
def _batch_norm(b: Builder, node: Node) -> str:
    if not uses_stored_statistics(node):
        raise UserError(
            f"BatchNorm {node.name!r} normalises by the statistics of its batch, which ONNX lacks.",
            "Export the eval graph (model.eval()), without use_global_stats=False.",
        )
    size = b.shape(node.value("x"))[1]
    inputs = [
        *b.refs(node, "x"),
        _or_constant(b, node, "scale", size, 1.0),
        _or_constant(b, node, "bias", size, 0.0),
        *b.refs(node, "mean", "variance"),
    ]
    return b.op("BatchNormalization", inputs, node, last=True, epsilon=float(node.attrs["epsilon"]))


@writes("layer_norm")
def _layer_norm(b: Builder, node: Node) -> str:
    x, epsilon, axis = node.value("x"), float(node.attrs["epsilon"]), int(node.attrs["begin_norm_axis"])
    sizes = b.shape(x)[axis:]
    if -1 in sizes:
        raise UserError(f"LayerNorm {node.name!r} is over an axis of any length.", "Give a fixed --input_shape.")
    weights = []
    for argument, number in (("scale", 1.0), ("bias", 0.0)):
        name = _or_constant(b, node, argument, int(np.prod(sizes)), number)
        weights.append(name if len(sizes) == 1 else b.op("Reshape", [name, b.integers(sizes)], node))
    if b.opset >= 17:
        return b.op("LayerNormalization", [b.ref(x), *weights], node, last=True, axis=axis, epsilon=epsilon)
    axes = list(range(axis, b.rank(x)))
    centred = b.op("Sub", [b.ref(x), reduce(b, node, "ReduceMean", b.ref(x), axes, True)], node)
    variance = reduce(b, node, "ReduceMean", b.op("Mul", [centred, centred], node), axes, True)
    deviation = b.op("Sqrt", [b.op("Add", [variance, b.scalar(epsilon)], node)], node)
    scaled = b.op("Mul", [b.op("Div", [centred, deviation], node), weights[0]], node)
    return b.op("Add", [scaled, weights[1]], node, last=True)


@writes("group_norm")
def _group_norm(b: Builder, node: Node) -> str:
    """InstanceNormalization over ``[N, groups, -1]``, then factor and shift by channel."""
    x, groups, epsilon = node.value("x"), int(node.attrs["groups"]), float(node.attrs["epsilon"])
    channels = b.shape(x)[1]
    flat = b.op("Reshape", [b.ref(x), b.integers([0, groups, -1])], node)
    units = [b.constant(np.full(groups, number, np.float32)) for number in (1.0, 0.0)]
    normal = b.op("InstanceNormalization", [flat, *units], node, epsilon=epsilon)
    result = b.op("Reshape", [normal, b.join(b.dims(x, 0, b.rank(x), node), node)], node)
    by_channel = b.integers([channels] + [1] * (b.rank(x) - 2))
    scale, bias = (
        b.op("Reshape", [_or_constant(b, node, argument, channels, number), by_channel], node)
        for argument, number in (("scale", 1.0), ("bias", 0.0))
    )
    return b.op("Add", [b.op("Mul", [result, scale], node), bias], node, last=True)


@writes("instance_norm")
def _instance_norm(b: Builder, node: Node) -> str:
    size = b.shape(node.value("x"))[1]
    weights = [_or_constant(b, node, "scale", size, 1.0), _or_constant(b, node, "bias", size, 0.0)]
    epsilon = float(node.attrs["epsilon"])
    return b.op("InstanceNormalization", [*b.refs(node, "x"), *weights], node, last=True, epsilon=epsilon)


@writes("softmax")
def _softmax(b: Builder, node: Node) -> str:
    return b.op("Softmax", b.refs(node, "x"), node, last=True, axis=int(node.attrs["axis"]))


@writes("log_softmax")
def _log_softmax(b: Builder, node: Node) -> str:
    return b.op("LogSoftmax", b.refs(node, "x"), node, last=True, axis=int(node.attrs["axis"]))


@writes("p_norm")
def _p_norm(b: Builder, node: Node) -> str:
    order = float(node.attrs["porder"])
    if order not in (1.0, 2.0):
        raise UserError(f"Node {node.name!r} is a norm of order {order}; ONNX has 1 and 2.", "Use one of those.")
    axes = None if node.attrs.get("asvector") else [int(node.attrs["axis"])]
    kind = f"ReduceL{int(order)}"
    return reduce(b, node, kind, b.ref(node.value("x")), axes, bool(node.attrs["keepdim"]), last=True)
