"""A graph as a program in Paddle's old format (``.pdmodel``), which Paddle 2 and engines built for it read.

``paddle._C_ops`` builds PIR only, so the ops are written one by one, from the table `old_ops.OLD_OPS` and from the
declaration that Paddle has of every old op. Paddle infers shapes while they are added, which checks each of them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from paddleseg_slim.compat_old import OldDeclaration, OldProgram, old_declaration, old_type
from paddleseg_slim.errors import UserError
from paddleseg_slim.graph.expand import expand_own_ops
from paddleseg_slim.graph.ir import Graph, Node, Value, slot_values
from paddleseg_slim.graph.old_ops import OLD_OPS, OldOp

_WITHOUT_MEANING = frozenset({"force_cpu", "place", "fix_seed", "seed", "asvector", "use_gpudnn"})
"""Attributes that change nothing at inference: left out where an old op lacks them."""

_TYPE_ATTRIBUTES = frozenset({"dtype", "in_dtype", "out_dtype"})


def write_old_format(
    graph: Graph, arrays: Mapping[str, np.ndarray], prefix: Path, input_shapes: Sequence[Sequence[int]]
) -> None:
    """Write ``prefix.pdmodel`` and ``prefix.pdiparams``.

    Args:
        graph: what is written.
        arrays: an array for every parameter of the graph.
        prefix: path without suffix.
        input_shapes: shape of every input, -1 for a dynamic axis.

    Raises:
        UserError: the old format has no such op, or no such argument of it; the cause names the op and the node.
    """
    graph = expand_own_ops(graph, keep=OLD_OPS)
    with OldProgram() as program:
        variables: dict[Value, Any] = {}
        for name, value in graph.parameters.items():
            variables[value] = program.parameter(name, arrays[name].shape, value.dtype)
        for value, shape in zip(graph.inputs, input_shapes):
            variables[value] = program.placeholder(value.name, shape, value.dtype)
        for node in graph.nodes:
            _write(program, node, variables)
        inputs = [variables[value] for value in graph.inputs]
        program.save(prefix, inputs, [variables[value] for value in graph.output_values()], arrays)


def _refusal(node: Node, reason: str) -> UserError:
    return UserError(
        f"The old format cannot hold node {node.name!r} ({node.op}): {reason}.",
        "Export in Paddle's present format (.json), or with a fixed --input_shape.",
    )


def _write(program: OldProgram, node: Node, variables: dict[Value, Any]) -> None:
    """Add one node; ``variables`` gains its outputs."""
    try:
        _write_old(program, node, variables)
    except (ValueError, RuntimeError, TypeError, AttributeError) as error:  # what Paddle says of a wrong op
        lines = [line.strip() for line in str(error).splitlines() if "Error" in line] or [str(error)]
        raise _refusal(node, lines[-1][:200]) from error


def _write_old(program: OldProgram, node: Node, variables: dict[Value, Any]) -> None:
    old = OLD_OPS.get(node.op, OldOp(node.op))
    declared = old_declaration(old.type)
    if declared is None:
        raise _refusal(node, f"it has no op {old.type!r}")
    inputs, attrs = _arguments(program, node, old, declared, variables)
    outputs: dict[str, list[Any]] = {}
    for name, slot in node.outputs.items():
        key = _find(name, old, declared.outputs)
        if key is None and len(node.outputs) == len(declared.results) == 1:
            key = declared.results[0]
        if key is not None:  # else something that Paddle 3 adds
            outputs[key] = [_result(program, old, key, value, inputs) for value in slot_values(slot)]
            variables.update(zip(slot_values(slot), outputs[key]))
    for key in declared.needed_outputs:
        if key not in outputs:
            outputs[key] = [program.variable(None, "float32")]
    program.append(old.type, inputs, outputs, attrs)
    for value in node.output_values():
        if value in variables:
            program.refine(variables[value], value.shape)
            if old.cast:
                variables[value] = _cast(program, variables[value], value)


def _arguments(
    program: OldProgram, node: Node, old: OldOp, declared: OldDeclaration, variables: dict[Value, Any]
) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    """Inputs and attributes of the old op."""
    inputs: dict[str, list[Any]] = {}
    attrs: dict[str, Any] = {}
    for name, value in node.attrs.items():
        if name in old.tensors and value is not None:
            inputs[old.tensors[name]] = [_constant(program, node, value)]
        elif old.names.get(name) != "" and value is not None:
            key = _find(name, old, declared.attrs)
            if key is not None:
                attrs[key] = value
            elif name not in _WITHOUT_MEANING:
                raise _refusal(node, f"its op {old.type!r} has no {name!r}")
    attrs.update(old.attrs(node))
    attrs = {key: declared.attrs[key](_plain_type(key, value)) for key, value in attrs.items()}
    for argument, slot in node.inputs.items():
        read = [variables[value] for value in slot_values(slot)]
        key = _key(argument, isinstance(slot, list), old, declared) if read else ""
        if key is None:
            raise _refusal(node, f"its argument {argument!r} is computed, and must be a constant there")
        if key in declared.inputs:
            inputs[key] = read
        elif key:
            attrs[key] = read if isinstance(slot, list) else read[0]
    return inputs, attrs


def _constant(program: OldProgram, node: Node, value: Any) -> Any:
    """A tensor of one element, of the type of the result, where the old op takes no number."""
    dtype = node.out.dtype
    variable = program.variable(None, dtype)
    attrs = {"shape": [1], "dtype": old_type(dtype), "value": float(value), "str_value": str(value)}
    program.append("fill_constant", {}, {"Out": [variable]}, attrs)
    return variable


def _result(program: OldProgram, old: OldOp, key: str, value: Value, inputs: dict[str, list[Any]]) -> Any:
    """The variable of an output; moved statistics are written where they were read."""
    moved = key[:-3] if old.type == "batch_norm" and key in ("MeanOut", "VarianceOut") else None
    if moved:
        return inputs[moved][0]
    return program.variable(None, old.cast) if old.cast else program.variable(value.name, value.dtype)


def _cast(program: OldProgram, variable: Any, value: Value) -> Any:
    result = program.variable(value.name, value.dtype)
    attrs = {"in_dtype": variable.dtype, "out_dtype": old_type(value.dtype)}
    program.append("cast", {"X": [variable]}, {"Out": [result]}, attrs)
    return result


def _find(name: str, old: OldOp, known: Collection[str]) -> str | None:
    """The old name of an argument or output: that of the row, or the one that differs in case and underscores only."""
    wanted = old.names.get(name, name)
    if wanted in known:
        return wanted
    plain = wanted.replace("_", "").lower()
    return next((item for item in known if item.replace("_", "").lower() == plain), None)


def _key(argument: str, is_list: bool, old: OldOp, declared: OldDeclaration) -> str | None:
    """The old name of an argument that reads values: an input, or an attribute that may be a variable."""
    if old.names.get(argument) == "":
        return None
    if argument in old.tensors:
        return old.tensors[argument]
    if argument in old.computed:
        return old.computed[argument][is_list] or None
    return _find(argument, old, declared.inputs) or _find(argument, old, declared.attrs)


def _plain_type(key: str, value: Any) -> Any:
    """A type by its number."""
    if key in _TYPE_ATTRIBUTES and isinstance(value, str):
        return -1 if value == "undefined" else old_type(value)
    return value
