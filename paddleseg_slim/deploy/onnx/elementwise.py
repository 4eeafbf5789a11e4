"""Arithmetic, comparison, logic and activations, element by element."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from paddleseg_slim.deploy.onnx.builder import DTYPES, Builder, writes
from paddleseg_slim.errors import UserError
from paddleseg_slim.graph import Node

_UNARY = {
    "relu": "Relu",
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "exp": "Exp",
    "log": "Log",
    "sqrt": "Sqrt",
    "abs": "Abs",
    "floor": "Floor",
    "ceil": "Ceil",
    "sign": "Sign",
    "sin": "Sin",
    "cos": "Cos",
    "tan": "Tan",
    "atan": "Atan",
    "erf": "Erf",
    "reciprocal": "Reciprocal",
    "softsign": "Softsign",
    "logical_not": "Not",
    "isnan": "IsNaN",
}
_BINARY = {
    "add": "Add",
    "subtract": "Sub",
    "multiply": "Mul",
    "divide": "Div",
    "maximum": "Max",
    "minimum": "Min",
    "elementwise_pow": "Pow",
    "fmax": "Max",
    "fmin": "Min",
    "equal": "Equal",
    "less_than": "Less",
    "less_equal": "LessOrEqual",
    "greater_than": "Greater",
    "greater_equal": "GreaterOrEqual",
    "logical_and": "And",
    "logical_or": "Or",
    "logical_xor": "Xor",
}


def _number(item: Any) -> float:
    return float(np.asarray(item).reshape(-1)[0])


@writes(*_UNARY)
def _unary(b: Builder, node: Node) -> str:
    return b.op(_UNARY[node.op], b.refs(node, "x"), node, last=True)


@writes(*_BINARY)
def _binary(b: Builder, node: Node) -> str:
    return b.op(_BINARY[node.op], b.refs(node, "x", "y"), node, last=True)


@writes("not_equal")
def _not_equal(b: Builder, node: Node) -> str:
    return b.op("Not", [b.op("Equal", b.refs(node, "x", "y"), node)], node, last=True)


@writes("floor_divide")
def _floor_divide(b: Builder, node: Node) -> str:
    """Sizes are not negative, so integer division that rounds to zero is the same."""
    inputs = b.refs(node, "x", "y")
    if "int" in node.out.dtype:
        return b.op("Div", inputs, node, last=True)
    return b.op("Floor", [b.op("Div", inputs, node)], node, last=True)


@writes("remainder")
def _remainder(b: Builder, node: Node) -> str:
    x, y = b.refs(node, "x", "y")
    if "int" in node.out.dtype:
        return b.op("Mod", [x, y], node, last=True)
    whole = b.op("Mul", [b.op("Floor", [b.op("Div", [x, y], node)], node), y], node)
    return b.op("Sub", [x, whole], node, last=True)


@writes("add_n")
def _add_n(b: Builder, node: Node) -> str:
    slot = node.inputs.get("inputs", node.inputs.get("x"))
    return b.op("Sum", [b.ref(value) for value in slot], node, last=True)  # type: ignore[union-attr]


@writes("where")
def _where(b: Builder, node: Node) -> str:
    return b.op("Where", b.refs(node, "condition", "x", "y"), node, last=True)


_ATTRIBUTED: dict[str, tuple[str, Callable[[Node], dict[str, float]]]] = {
    "hardsigmoid": ("HardSigmoid", lambda node: {"alpha": node.attrs["slope"], "beta": node.attrs["offset"]}),
    "leaky_relu": ("LeakyRelu", lambda node: {"alpha": node.attrs["negative_slope"]}),
    "elu": ("Elu", lambda node: {"alpha": node.attrs["alpha"]}),
    "celu": ("Celu", lambda node: {"alpha": node.attrs["alpha"]}),
    "selu": ("Selu", lambda node: {"alpha": node.attrs["alpha"], "gamma": node.attrs["scale"]}),
}


@writes(*_ATTRIBUTED)
def _attributed(b: Builder, node: Node) -> str:
    kind, attrs = _ATTRIBUTED[node.op]
    numbers: dict[str, Any] = {key: float(value) for key, value in attrs(node).items()}
    return b.op(kind, b.refs(node, "x"), node, last=True, **numbers)


_RANGES: dict[str, Callable[[Node], tuple[float, float]]] = {
    "relu6": lambda node: (0.0, 6.0),
    "hardtanh": lambda node: (float(node.attrs["t_min"]), float(node.attrs["t_max"])),
}


@writes(*_RANGES)
def _range(b: Builder, node: Node) -> str:
    low, high = _RANGES[node.op](node)
    return b.op("Clip", [*b.refs(node, "x"), b.scalar(low), b.scalar(high)], node, last=True)


@writes("clip")
def _clip(b: Builder, node: Node) -> str:
    x = node.value("x")
    bounds = [b.scalar(_number(b.known(node, name)), x.dtype) for name in ("min", "max")]
    return b.op("Clip", [b.ref(x), *bounds], node, last=True)


@writes("prelu")
def _prelu(b: Builder, node: Node) -> str:
    x, alpha = node.value("x"), node.value("alpha")
    slope = b.ref(alpha)
    if node.attrs.get("mode") == "channel":
        slope = b.op("Reshape", [slope, b.integers([-1] + [1] * (b.rank(x) - 2))], node)
    return b.op("PRelu", [b.ref(x), slope], node, last=True)


_BITWISE = {"bitwise_and": "And", "bitwise_or": "Or", "bitwise_xor": "Xor"}


@writes(*_BITWISE)
def _bitwise(b: Builder, node: Node) -> str:
    """``&``, ``|`` and ``^`` of truth values are logic; those of integers came with opset 18."""
    kind = _BITWISE[node.op]
    if node.out.dtype != "bool":
        if b.opset < 18:
            raise UserError(f"Node {node.name!r} works on bits, which ONNX has from opset 18 on.", "Give --opset 18.")
        kind = f"Bitwise{kind}"
    return b.op(kind, b.refs(node, "x", "y"), node, last=True)


@writes("hardswish")
def _hardswish(b: Builder, node: Node) -> str:
    x = b.ref(node.value("x"))
    if b.opset >= 14:
        return b.op("HardSwish", [x], node, last=True)
    return b.op("Mul", [x, b.op("HardSigmoid", [x], node, alpha=1 / 6, beta=0.5)], node, last=True)


@writes("swish", "silu")
def _silu(b: Builder, node: Node) -> str:
    x = b.ref(node.value("x"))
    return b.op("Mul", [x, b.op("Sigmoid", [x], node)], node, last=True)


@writes("softplus")
def _softplus(b: Builder, node: Node) -> str:
    beta = float(node.attrs.get("beta", 1.0))
    x = b.ref(node.value("x"))
    if beta == 1.0:
        return b.op("Softplus", [x], node, last=True)
    inner = b.op("Softplus", [b.op("Mul", [x, b.scalar(beta)], node)], node)
    return b.op("Div", [inner, b.scalar(beta)], node, last=True)


@writes("mish")
def _mish(b: Builder, node: Node) -> str:
    x = b.ref(node.value("x"))
    return b.op("Mul", [x, b.op("Tanh", [b.op("Softplus", [x], node)], node)], node, last=True)


@writes("logsigmoid")
def _log_sigmoid(b: Builder, node: Node) -> str:
    negative = b.op("Neg", b.refs(node, "x"), node)
    return b.op("Neg", [b.op("Softplus", [negative], node)], node, last=True)


@writes("gelu")
def _gelu(b: Builder, node: Node) -> str:
    """``0.5 x (1 + erf(x / sqrt 2))``, in the order of operations that engines recognise and fuse."""
    x = b.ref(node.value("x"))
    if b.opset >= 20:
        return b.op("Gelu", [x], node, last=True, approximate="tanh" if node.attrs["approximate"] else "none")
    if node.attrs["approximate"]:
        cube = b.op("Mul", [b.op("Mul", [x, x], node), x], node)
        inner = b.op("Add", [x, b.op("Mul", [cube, b.scalar(0.044715)], node)], node)
        inner = b.op("Tanh", [b.op("Mul", [inner, b.scalar(float(np.sqrt(2 / np.pi)))], node)], node)
    else:
        inner = b.op("Erf", [b.op("Div", [x, b.scalar(float(np.sqrt(2)))], node)], node)
    product = b.op("Mul", [x, b.op("Add", [inner, b.scalar(1.0)], node)], node)
    return b.op("Mul", [product, b.scalar(0.5)], node, last=True)


@writes("square")
def _square(b: Builder, node: Node) -> str:
    x = b.ref(node.value("x"))
    return b.op("Mul", [x, x], node, last=True)


@writes("rsqrt")
def _rsqrt(b: Builder, node: Node) -> str:
    return b.op("Reciprocal", [b.op("Sqrt", b.refs(node, "x"), node)], node, last=True)


@writes("round")
def _round(b: Builder, node: Node) -> str:
    decimals = int(node.attrs.get("decimals", 0))
    x = b.ref(node.value("x"))
    if decimals == 0:
        return b.op("Round", [x], node, last=True)
    factor = b.scalar(10.0**decimals)
    return b.op("Div", [b.op("Round", [b.op("Mul", [x, factor], node)], node), factor], node, last=True)


@writes("pow")
def _pow(b: Builder, node: Node) -> str:
    x = node.value("x")
    return b.op("Pow", [b.ref(x), b.scalar(_number(b.known(node, "y", 1.0)), x.dtype)], node, last=True)


@writes("scale")
def _scale(b: Builder, node: Node) -> str:
    """``x * scale + bias`` or ``(x + bias) * scale``; a step that changes nothing is left out."""
    x = node.value("x")
    factor, bias = _number(b.known(node, "scale", 1.0)), _number(node.attrs.get("bias", 0.0))
    steps = [("Mul", factor, 1.0), ("Add", bias, 0.0)]
    if not node.attrs.get("bias_after_scale", True):
        steps.reverse()
    steps = [step for step in steps if step[1] != step[2]] or steps[:1]
    name = b.ref(x)
    for index, (kind, number, _) in enumerate(steps):
        name = b.op(kind, [name, b.scalar(number, x.dtype)], node, last=index == len(steps) - 1)
    return name


@writes("increment")
def _increment(b: Builder, node: Node) -> str:
    x = node.value("x")
    return b.op("Add", [b.ref(x), b.scalar(float(node.attrs["value"]), x.dtype)], node, last=True)


@writes("cast")
def _cast(b: Builder, node: Node) -> str:
    return b.op("Cast", b.refs(node, "x"), node, last=True, to=DTYPES[node.out.dtype])


@writes("assign", "assign_", "assign_out", "share_data", "dropout")
def _same(b: Builder, node: Node) -> str:
    """Nothing happens: readers read the source. Dropout in evaluation scales only in the mode that says so."""
    source = node.value("x")
    if node.op == "dropout" and node.attrs.get("mode") == "downgrade_in_infer":
        keep = 1.0 - _number(node.attrs["p"])
        return b.op("Mul", [b.ref(source), b.scalar(keep)], node, last=True)
    return b.ref(source)
