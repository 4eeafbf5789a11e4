"""Programs in Paddle's old format, written op by op: the private parts of Paddle that this takes."""

from __future__ import annotations

import contextlib
import functools
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import paddle
from paddle.base import core, framework

_TYPES = {
    "bool": "BOOL",
    "int8": "INT8",
    "uint8": "UINT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "bfloat16": "BF16",
    "float32": "FP32",
    "float64": "FP64",
}


def old_type(name: str) -> int:
    """``"float32"`` -> the number of this type in old programs."""
    return int(_variable_type(name))


def _variable_type(name: str) -> Any:
    return getattr(core.VarDesc.VarType, _TYPES[name])


@dataclass(frozen=True)
class OldDeclaration:
    """What an op of the old format has.

    Attributes:
        inputs: names.
        outputs: names.
        needed_outputs: outputs that must be given a variable even when nothing reads it.
        results: those of them that are results, not kept for a gradient.
        attrs: name -> how a value of the graph becomes one of this attribute.
    """

    inputs: frozenset[str]
    outputs: frozenset[str]
    needed_outputs: tuple[str, ...]
    results: tuple[str, ...]
    attrs: Mapping[str, Callable[[Any], Any]]


def _integers(items: Any) -> list[int]:
    return [int(item) for item in items]


_CONVERSIONS: dict[Any, Callable[[Any], Any]] = {
    core.AttrType.INT: int,
    core.AttrType.LONG: int,
    core.AttrType.FLOAT: float,
    core.AttrType.INTS: _integers,
    core.AttrType.LONGS: _integers,
}


def _unchanged(item: Any) -> Any:
    return item


@functools.cache
def old_declaration(op: str) -> OldDeclaration | None:
    """The declaration of an op of the old format; None when the installed Paddle has none."""
    protos = framework.OpProtoHolder.instance()
    if not protos.has_op_proto(op):
        return None
    proto = protos.get_op_proto(op)
    return OldDeclaration(
        frozenset(item.name for item in proto.inputs),
        frozenset(item.name for item in proto.outputs),
        tuple(item.name for item in proto.outputs if not item.dispensable),
        tuple(item.name for item in proto.outputs if not item.dispensable and not item.intermediate),
        {item.name: _CONVERSIONS.get(core.AttrType(item.type), _unchanged) for item in proto.attrs},
    )


class OldProgram:
    """An old program under construction; a context: only inside it may it be changed."""

    def __init__(self) -> None:
        self._program = framework.Program()
        self._block = self._program.global_block()
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> OldProgram:
        with contextlib.ExitStack() as stack:
            stack.enter_context(framework._dygraph_guard(None))
            stack.enter_context(paddle.pir_utils.OldIrGuard())
            stack.enter_context(framework.program_guard(self._program, framework.Program()))
            # else the Python stack, with the paths of this machine, is written beside every op
            stack.enter_context(patch.object(traceback, "extract_stack", lambda *_, **__: traceback.StackSummary()))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()

    def placeholder(self, name: str, shape: Sequence[int], dtype: str) -> Any:
        """An input of the program."""
        return self._block.create_var(
            name=name, shape=list(shape), dtype=_variable_type(dtype), is_data=True, need_check_feed=True,
            stop_gradient=True,
        )  # fmt: skip

    def parameter(self, name: str, shape: Sequence[int], dtype: str) -> Any:
        """A stored tensor of the program."""
        return self._block.create_var(name=name, shape=list(shape), dtype=_variable_type(dtype), persistable=True)

    def variable(self, name: str | None, dtype: str) -> Any:
        """A result of an op, made before the op; Paddle makes up a name when it is None."""
        name = name or framework.unique_name.generate("unread")
        return self._block.create_var(name=name, dtype=_variable_type(dtype))

    def append(
        self, op: str, inputs: Mapping[str, list[Any]], outputs: Mapping[str, list[Any]], attrs: Mapping[str, Any]
    ) -> None:
        """Add an op; Paddle infers the shapes of its outputs (its exceptions say what does not fit)."""
        self._block.append_op(type=op, inputs=dict(inputs), outputs=dict(outputs), attrs=dict(attrs))

    def refine(self, variable: Any, shape: Sequence[int]) -> None:
        """Tell sizes (-1: not known) that Paddle did not infer for a result."""
        inferred = list(variable.shape)
        if len(inferred) == len(shape) and -1 in inferred:
            variable.desc.set_shape([own if own != -1 else told for own, told in zip(inferred, shape)])

    def save(self, prefix: Path, inputs: list[Any], outputs: list[Any], arrays: Mapping[str, np.ndarray]) -> None:
        """Write ``prefix.pdmodel`` and, for a program with parameters, ``prefix.pdiparams``."""
        scope = paddle.static.Scope()
        for name, array in arrays.items():
            scope.var(name).get_tensor().set(array, paddle.CPUPlace())
        with paddle.static.scope_guard(scope):
            executor = paddle.static.Executor(paddle.CPUPlace())
            paddle.static.save_inference_model(str(prefix), inputs, outputs, executor, program=self._program)
