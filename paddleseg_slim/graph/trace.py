"""Tracing a layer into a PIR program, with shapes that stay dynamic and names that come from the layer tree.

Inside the model ``x.shape[2]`` of a dynamic axis is a value of the program, so ``h * w`` or ``h ** .5`` are recorded
instead of being computed with -1. A Python decision on such a value (``if h % 2``, ``range(h)``) is answered for an
example size and kept as a guard of the graph.
"""

from __future__ import annotations

import bisect
import contextlib
import copy
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import paddle
from paddle import nn

from paddleseg_slim import compat
from paddleseg_slim.errors import UserError
from paddleseg_slim.graph.ir import Graph, Value, unique_name
from paddleseg_slim.graph.pir import ProgramReader
from paddleseg_slim.graph.shapes import DataDependent, ShapeRun

_UNAWARE = frozenset({"_unpool_output_size"})
"""Functions of Paddle that compute with -1 as if it were a size."""


def _is_model_code(module: str) -> bool:
    """Whether code of ``module`` is the user's: Paddle's own code knows how to treat a dynamic axis."""
    return not module.startswith("paddle.") or module.startswith("paddle.vision.")


def _caller_line() -> str:
    """``file:line`` of the innermost frame outside Paddle and this package."""
    frame = sys._getframe(2)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if _is_model_code(module) and not module.startswith("paddleseg_slim.graph"):
            return f"{frame.f_code.co_filename}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return "the model"


class _Names:
    """Identity of a node: the path of the layer that called the op, the op, and how many came before it there."""

    def __init__(self, layer: nn.Layer, taken: Iterable[str]) -> None:
        self.paths = {id(item): path for path, item in layer.named_sublayers(include_self=True)}
        self._leaves = {id(item) for item in layer.sublayers(include_self=True) if not item._sub_layers}
        self._own = {path: bool(item._parameters) for path, item in layer.named_sublayers(include_self=True)}
        self._leaf_paths = {self.paths[key] for key in self._leaves}
        self._stack = [""]
        self._starts: list[int] = []
        self._owners: list[str] = []
        self._counts: Counter[tuple[str, str]] = Counter()
        self._main: set[str] = set()
        self._taken = set(taken)

    def enter(self, layer: nn.Layer, next_id: int) -> None:
        self._stack.append(self.paths.get(id(layer), self._stack[-1]))
        self._mark(next_id)

    def leave(self, next_id: int) -> None:
        self._stack.pop()
        self._mark(next_id)

    def _mark(self, next_id: int) -> None:
        self._starts.append(next_id)
        self._owners.append(self._stack[-1])

    def name(self, operation: Any, op: str) -> tuple[str, str]:
        """The layer path and the node name of an operation."""
        position = bisect.bisect_right(self._starts, operation.id()) - 1
        path = self._owners[position] if position >= 0 else ""
        ordinal = self._counts[path, op]
        self._counts[path, op] += 1
        if path in self._leaf_paths and path not in self._main and self._is_main(operation, path):
            self._main.add(path)
            return path, self._fresh(path)
        name = f"{path}/{op}" if path else op
        return path, self._fresh(f"{name}_{ordinal}" if ordinal else name)

    def _is_main(self, operation: Any, path: str) -> bool:
        """The op that a leaf layer is named for: the first that reads one of its parameters, or any if it has none."""
        if not path or operation.name() in ("pd_op.full", "pd_op.full_int_array", "pd_op.shape64", "pd_op.shape"):
            return False
        if not self._own[path]:
            return True
        producers = (v.get_defining_op() for v in operation.operands_source() if v is not None and v.initialized())
        return any(producer.name() == "builtin.parameter" for producer in producers)

    def _fresh(self, name: str) -> str:
        return unique_name(name, self._taken, ".")


class Tracer:
    """One trace of a layer in its present mode.

    Args:
        layer: what is traced.
        specs: `paddle.static.InputSpec` of the inputs.
        example: example shapes of the inputs, at which Python decisions on shapes are answered.
        taken: names that no node may have: those of the stored tensors.
        converted: let Paddle's `to_static` turn Python decisions on data into operations, which a plain trace refuses.
    """

    def __init__(
        self,
        layer: nn.Layer,
        specs: Sequence[Any],
        example: Sequence[tuple[int, ...]],
        taken: Iterable[str],
        converted: bool = False,
    ) -> None:
        self._layer = layer
        self._converted = converted
        self._depth = 0
        self._specs = specs
        self._example = [tuple(shape) for shape in example]
        self._program = paddle.static.Program()
        self._inputs = [spec.name or f"x{index}" for index, spec in enumerate(specs)]
        self._names = _Names(layer, [*self._inputs, *taken])
        self._reader = ProgramReader(self._program, self._names.name)
        self._shape_cache: dict[tuple[int, int], Any] = {}
        self._kept: list[Any] = []
        self._guards: list[tuple[Any, Any]] = []
        self._replaced: dict[tuple[int, str], tuple[Any, Any, bool]] = {}
        self._run: ShapeRun | None = None

    def trace(self) -> tuple[Graph, list[tuple[Value, Any]], list[tuple[Any, Value]]]:
        """Run the layer symbolically.

        Returns:
            the graph, with ``parameters`` still empty; the value and the tensor of each; and the tensors that the
            layer replaces or writes into, with what they become.

        Raises:
            UserError: a decision depends on data, or the program holds what a graph cannot.
        """
        methods = {
            "shape": property(self._shape),
            "__bool__": lambda value: bool(self._decide(value)),
            "__int__": lambda value: int(self._decide(value)),
            "__index__": lambda value: int(self._decide(value)),
            "__float__": lambda value: float(self._decide(value)),
            "__ceil__": lambda value: paddle.ceil(value).astype("int64"),
            "__floor__": lambda value: paddle.floor(value).astype("int64"),
        }
        with plain_attributes(self._layer), compat.tracing(self._program, **methods) as tensors, self._hooks():
            inputs = [
                compat.placeholder(name, spec.shape, compat.dtype_name(spec.dtype))
                for name, spec in zip(self._inputs, self._specs)
            ]
            if self._converted:
                with compat.converted_decisions(self._branch):
                    outputs = compat.converted(self._layer)(*inputs)
            else:
                outputs = self._layer(*inputs)
        graph = self._reader.read()
        graph.outputs = self._structure(outputs)
        graph.guards = [(self._reader.value(value), expected) for value, expected in self._guards]
        read = self._reader.stored
        stored = [(read[key], tensor) for key, tensor in tensors.items() if key in read]
        return graph, stored, self._updates(dict(stored))

    def _updates(self, stored: dict[Value, Any]) -> list[tuple[Any, Value]]:
        """Tensors with their new values; a plain attribute counts only when the model reads what it held before."""
        read = {id(tensor) for tensor in stored.values()}
        found = {id(stored[value]): (stored[value], made) for value, made in self._reader.updates.items()}
        for tensor, value, is_buffer in self._replaced.values():
            if is_buffer or id(tensor) in read:
                found[id(tensor)] = (tensor, self._reader.value(value))
        return list(found.values())

    def _structure(self, outputs: Any) -> Any:
        if isinstance(outputs, dict):
            return {key: self._structure(item) for key, item in outputs.items()}
        if isinstance(outputs, (list, tuple)):
            items = [self._structure(item) for item in outputs]
            return items if isinstance(outputs, list) else tuple(items)
        if isinstance(outputs, compat.PirValue):
            return self._reader.value(outputs)
        if outputs is None or isinstance(outputs, (bool, int, float, str)):
            return outputs
        raise UserError(
            f"The model returns a {type(outputs).__name__}, which a graph cannot hold.",
            "Return tensors in lists, tuples or dicts.",
        )

    @contextmanager
    def _hooks(self) -> Iterator[None]:
        original = nn.Layer.__call__
        names = self._names

        def next_id() -> int:
            last = compat.last_operation(self._program)
            return 0 if last is None else int(last.id()) + 1

        def call(layer: nn.Layer, *inputs: Any, **keywords: Any) -> Any:
            names.enter(layer, next_id())
            try:
                return original(layer, *inputs, **keywords)
            finally:
                names.leave(next_id())

        def assign(layer: nn.Layer, name: str, value: Any) -> None:
            if not isinstance(value, compat.PirValue):
                return original_assign(layer, name, value)
            is_buffer = name in layer._buffers
            held = layer._buffers.get(name, layer.__dict__.get(name))
            for table in (layer._parameters, layer._buffers):  # Paddle would write into the tensor that stood there
                table.pop(name, None)
            if isinstance(held, paddle.Tensor) or (id(layer), name) in self._replaced:
                first = (held, None, is_buffer)
                tensor, _, is_buffer = self._replaced.get((id(layer), name), first)
                self._replaced[id(layer), name] = (tensor, value, is_buffer)
            object.__setattr__(layer, name, value)
            return None

        original_assign = nn.Layer.__setattr__
        with patch.object(nn.Layer, "__call__", call), patch.object(nn.Layer, "__setattr__", assign):
            yield

    def _shape(self, value: Any) -> Any:
        sizes = compat.pir_shape(value)
        caller = sys._getframe(1)
        aware = not _is_model_code(caller.f_globals.get("__name__", "")) and caller.f_code.co_name not in _UNAWARE
        if -1 not in sizes or aware:
            return list(sizes)
        return [self._size(value, axis) if size < 0 else size for axis, size in enumerate(sizes)]

    def _size(self, value: Any, axis: int) -> Any:
        whole, part = (value.id, -1), (value.id, axis)
        if whole not in self._shape_cache:
            self._kept.append(value)  # an id is only good while its value lives
            self._shape_cache[whole] = paddle.shape(value)
        if part not in self._shape_cache:
            self._shape_cache[part] = self._shape_cache[whole][axis]
        return self._shape_cache[part]

    def _branch(self, decide: Any, condition: Any, *arguments: Any, **keywords: Any) -> Any:
        """An ``if`` of converted code: on shapes a guard, as in plain code, on data an operation with two branches."""
        if isinstance(condition, compat.PirValue) and not self._depth:
            with contextlib.suppress(DataDependent):
                condition = bool(self._decide(condition))
        self._depth += 1
        try:
            return decide(condition, *arguments, **keywords)
        finally:
            self._depth -= 1

    def _decide(self, value: Any) -> Any:
        if self._depth:  # the operation around it is not complete, so it cannot be read
            raise DataDependent(
                f"{_caller_line()}: a decision inside a branch of a decision on data.", "Move it out of the branch."
            )
        graph = self._reader.read()
        if self._run is None:
            self._run = ShapeRun(dict(zip(graph.inputs, self._example)), ())
        self._run.allow(self._reader.stored.values())
        try:
            answer = self._run.host_value(self._reader.value(value))
        except DataDependent as error:
            raise DataDependent(f"{_caller_line()}: {error.cause}", error.remedy) from None
        plain = np.asarray(answer).tolist()
        self._guards.append((value, plain))
        return plain[0] if isinstance(plain, list) and len(plain) == 1 else plain


_TABLES = ("_parameters", "_buffers", "_sub_layers", "_non_persistable_buffer_names_set")


@contextmanager
def plain_attributes(layer: nn.Layer) -> Iterator[None]:
    """Take back what the forward pass stores on layers (``self.last = x``): those would be dead symbols."""
    saved = [
        (item, dict(item.__dict__), {name: copy.copy(item.__dict__[name]) for name in _TABLES})
        for item in layer.sublayers(include_self=True)
    ]
    try:
        yield
    finally:
        for item, attributes, tables in saved:
            item.__dict__.clear()
            item.__dict__.update(attributes)
            for name, table in tables.items():
                item.__dict__[name].clear()
                item.__dict__[name].update(table)


def prune_guards(graph: Graph) -> None:
    """Keep one guard of those on the same value."""
    seen: dict[Value, Any] = {}
    for value, expected in graph.guards:
        seen.setdefault(value, expected)
    graph.guards = list(seen.items())
