"""Ops that treat every element by itself, alone or with the element at the same place of other tensors."""

from __future__ import annotations

from paddleseg_slim.graph.ir import Node, slot_values
from paddleseg_slim.prune.ids import FIXED, Labels, moved
from paddleseg_slim.prune.rules.conv import channel_axis
from paddleseg_slim.prune.walk import RULES, Walk, attr

UNARY = (
    "abs", "assign", "assign_out_", "bernoulli", "bitwise_not", "cast", "ceil", "celu", "clip", "cos", "depend",
    "dropout", "elu", "erf", "exp", "expm1", "floor", "full_like", "gelu", "hardshrink", "hardsigmoid", "hardswish",
    "hardtanh", "isfinite", "isinf", "isnan", "leaky_relu", "log", "log10", "log1p", "log2", "logical_not", "logit",
    "logsigmoid", "memcpy", "mish", "ones_like", "pow", "reciprocal", "relu", "relu6", "round", "rsqrt", "scale",
    "selu", "share_data", "sigmoid", "sign", "silu", "sin", "softplus", "softshrink", "softsign", "sqrt", "square",
    "stanh", "swish", "tan", "tanh", "tanh_shrink", "thresholded_relu", "trunc", "zeros_like",
)  # fmt: skip
BINARY = (
    "add", "add_n", "atan2", "bitwise_and", "bitwise_or", "bitwise_xor", "divide", "elementwise_pow", "equal",
    "floor_divide", "fmax", "fmin", "greater_equal", "greater_than", "heaviside", "lerp", "less_equal", "less_than",
    "logical_and", "logical_or", "logical_xor", "maximum", "minimum", "multiply", "not_equal", "remainder", "subtract",
    "where",
)  # fmt: skip


@RULES.register(*UNARY)
def unary(walk: Walk, node: Node) -> None:
    """Every output element is made from the input element at its place; ids pass through."""
    first = next(iter(node.input_values()))
    for value in node.output_values():
        walk.set(value, walk.of(first) if walk.shape(value) == walk.shape(first) else FIXED)


def _aligned(walk: Walk, node: Node, rank: int) -> list[tuple[Labels, list[int]]]:
    parts = []
    for slot in node.inputs.values():
        for value in slot_values(slot):
            sizes = list(walk.shape(value))
            shift = rank - len(sizes)
            labels = moved(walk.of(value), [a + shift for a in range(len(sizes))])
            parts.append((tuple(f for f in labels if f.ids.size > 1), [1] * shift + sizes))
    return parts


@RULES.register(*BINARY)
def binary(walk: Walk, node: Node) -> None:
    """Operands broadcast against each other: ids at the same place are united."""
    walk.set(node.out, walk.joined(_aligned(walk, node, len(walk.shape(node.out))), node))


@RULES.register("prelu")
def prelu(walk: Walk, node: Node) -> None:
    """One slope for all, or one for each channel."""
    x, alpha = node.value("x"), node.value("alpha")
    axis = channel_axis(node, len(walk.shape(x)))
    if attr(node, "mode") == "channel" and alpha.shape[-1] > 1:
        walk.bind(alpha, len(alpha.shape) - 1, walk.axis(x, axis), node)
    elif attr(node, "mode") == "element":
        walk.pin((*walk.of(x), *walk.of(alpha)), f"{node.name}: a slope for each element")
    walk.set(node.out, walk.of(x))


@RULES.register("slim.fake_quant")
def fake_quant(walk: Walk, node: Node) -> None:
    """Rounding element by element; scales and zero points of one channel each follow the channels."""
    x, axis = node.value("x"), attr(node, "axis")
    for name in ("scale", "zero_point"):
        value = node.inputs.get(name)
        for own in slot_values(value):
            if axis is not None and own.shape and own.shape[0] > 1:
                walk.bind(own, 0, walk.axis(x, int(axis)), node)
    walk.set(node.out, walk.of(x))
