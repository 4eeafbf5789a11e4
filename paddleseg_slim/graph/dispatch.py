"""How an op of the graph is called: which of Paddle's functions, with which argument where, as which kind.

The order and the kinds are read from the C++ declarations that come with Paddle, so no list of ops is kept here: a
tensor where Paddle wants integers can abort the process.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from paddleseg_slim import compat
from paddleseg_slim.errors import UserError
from paddleseg_slim.graph.ir import Node, Value
from paddleseg_slim.graph.ops import own_function

TENSOR, INTS, SCALAR, DTYPE, PLACE, PLAIN = "tensor", "ints", "scalar", "dtype", "place", "plain"
"""Kinds of arguments: tensors, integers that may be computed, a number that may be computed, and constants."""

_KINDS = (("Place", PLACE), ("DataType", DTYPE), ("IntArray", INTS), ("Scalar", SCALAR), ("Tensor", TENSOR))


def _split_arguments(text: str) -> list[str]:
    """Split a C++ argument list at its top-level commas."""
    parts, depth, quoted, start = [], 0, False, 0
    for position, character in enumerate(text):
        if character == '"':
            quoted = not quoted
        elif quoted:
            continue
        elif character in "<({":
            depth += 1
        elif character in ">)}":
            depth -= 1
        elif character == "," and depth == 0:
            parts.append(text[start:position])
            start = position + 1
    return [part.strip() for part in [*parts, text[start:]] if part.strip()]


def _argument(text: str) -> tuple[str, str]:
    declaration = text.split("=", 1)[0].strip()
    ctype, name = declaration.rsplit(" ", 1)
    if "vector" in ctype and "Tensor" not in ctype:
        return name, PLAIN
    return name, next((kind for mark, kind in _KINDS if mark in ctype), PLAIN)


@functools.cache
def _declarations() -> dict[str, str]:
    return dict(re.findall(r"^PADDLE_API .*?(\w+)\((.*)\);\s*$", compat.op_header(), flags=re.M))


@functools.cache
def declared_arguments(op: str) -> tuple[tuple[str, str], ...] | None:
    """``(argument name, kind)`` of ``op`` in the order of Paddle's functions; None for an op that is not declared."""
    text = _declarations().get(op)
    if text is None:
        return None
    # a pointer is where the result may go (`input_out`, `predefined_out`): not an argument of the Python function
    parts = _split_arguments(text.replace("<<", ""))  # a shift in a default is no bracket
    return tuple(_argument(part) for part in parts if "*" not in part)


@functools.cache
def plain_name(op: str) -> str:
    """The functional name of an op: ``relu_`` -> ``relu``, ``sync_batch_norm_`` -> ``batch_norm``."""
    if op == "sync_batch_norm_":
        return "batch_norm"
    return op[:-1] if op.endswith("_") and compat.op_function(op[:-1]) is not None else op


@dataclass(frozen=True)
class Call:
    """How one node is called.

    Attributes:
        function: takes the arguments in order; by keyword when ``keywords`` is set.
        arguments: ``(argument name, kind)`` in order.
        keywords: an op with a ``run`` of its own takes its arguments by name.
    """

    function: Callable[..., Any]
    arguments: tuple[tuple[str, str], ...]
    keywords: bool


def _own_arguments(node: Node) -> tuple[tuple[str, str], ...]:
    """Arguments of an op without a declaration: its inputs, then its attributes."""
    attrs = ((name, DTYPE if name == "dtype" else PLAIN) for name in node.attrs)
    return (*((name, TENSOR) for name in node.inputs), *attrs)


def call_of(node: Node) -> Call:
    """Say how ``node`` is called.

    Raises:
        UserError: this Paddle has no such op, or an op of our own has no such argument, or needs another.
    """
    own = own_function(node)
    if own is not None:
        kinds = dict(declared_arguments(node.op) or ())
        arguments = tuple((name, kinds.get(name, kind)) for name, kind in _own_arguments(node))
        try:
            inspect.signature(own).bind(**dict.fromkeys(name for name, _ in arguments))
        except TypeError as error:
            raise UserError(
                f"Node {node.name!r} does not fit its op {node.op!r}: {error}.", "Copy or write the model again."
            ) from error
        return Call(own, arguments, True)
    function = compat.op_function(node.op)
    if function is None:
        raise UserError(
            f"The installed Paddle has no op {node.op!r} (node {node.name!r}).",
            "Use the Paddle that exported the model, or register the op with graph.register_op.",
        )
    return Call(function, declared_arguments(node.op) or _own_arguments(node), False)


def constant_argument(node: Node, name: str, kind: str) -> Any:
    """The Python object for an argument that is not computed."""
    if name in node.inputs:  # an optional input left out
        return None
    if kind == PLACE:
        return compat.current_place()
    value = node.attrs.get(name)
    if kind == DTYPE and isinstance(value, str):
        return compat.dtype_object(value)
    return value


def result_values(node: Node, result: Any) -> list[tuple[Value, Any]]:
    """Pair the output values of ``node`` with what its function returned."""
    slots = list(node.outputs.values())
    results = result if len(slots) > 1 else [result]
    pairs: list[tuple[Value, Any]] = []
    for slot, item in zip(slots, results):
        pairs.extend(zip(slot, item) if isinstance(slot, list) else [(slot, item)])
    return pairs
