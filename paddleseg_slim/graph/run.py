"""Running a graph: calls bound once over numbered slots in eager mode, a plain walk under a program guard."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle

from paddleseg_slim import compat
from paddleseg_slim.errors import UserError
from paddleseg_slim.graph.dispatch import INTS, SCALAR, TENSOR, call_of, constant_argument, result_values
from paddleseg_slim.graph.host import as_integer_list, as_integers, as_scalar, host_nodes, run_host
from paddleseg_slim.graph.ir import Graph, Node, Slot, Value
from paddleseg_slim.graph.shapes import build

MAX_SIZES = 64
"""Input sizes whose host integers a plan remembers."""

DATA_DEPENDENT_OPS = frozenset({"nonzero", "masked_select", "unique", "unique_consecutive", "multiclass_nms3", "nms"})
"""Ops whose output shape depends on data: host integers behind them are computed anew in each run."""


class GuardFailed(UserError):
    """A graph is used at an input size at which the model would have taken another path than the captured one."""


def check_guards(guards: Iterable[tuple[Value, Any, Any]], sizes: Any) -> None:
    """Compare ``(value, expected, found)`` of every guard.

    Raises:
        GuardFailed: one differs.
    """
    for value, expected, found in guards:
        if not np.array_equal(found, expected):
            raise GuardFailed(
                f"At input size {[list(size) for size in sizes]} the model takes another path than the one captured "
                f"({value.name!r} is {np.asarray(found).tolist()}, was {expected}).",
                "Capture the model again with an input_spec of this size.",
            )


def run_static(graph: Graph, inputs: Sequence[Any], parameters: Mapping[str, Any]) -> dict[Value, Any]:
    """Build the ops of ``graph`` into the current program; returns the PIR value of every value."""
    env: dict[Value, Any] = dict(zip(graph.inputs, inputs))
    env.update((value, parameters[name]) for name, value in graph.parameters.items())

    def argument(value: Value, kind: str) -> Any:
        """A number of one element and one of no axis do not mix in a list of sizes."""
        item = env[value]
        return paddle.reshape(item, []) if kind == SCALAR and compat.pir_shape(item) == (1,) else item

    for node in graph.nodes:
        env.update(result_values(node, build(node, call_of(node), argument)))
    return env


@dataclass
class Step:
    """One call of a plan.

    Attributes:
        function: what is called.
        reads: a slot an argument, or a list of slots for a list.
        names: argument names when the function is called by keyword.
        writes: slot of the result; or pairs (index in the result, slot) when it is a sequence.
        host: the result depends on the input shapes alone.
    """

    function: Callable[..., Any]
    reads: list[int | list[int]]
    names: tuple[str, ...] | None
    writes: int | tuple[tuple[int, int], ...]
    host: bool

    def read_slots(self) -> list[int]:
        """All slots read, lists unrolled."""
        return [slot for item in self.reads for slot in (item if isinstance(item, list) else [item])]


_Bound = list[tuple[Any, ...]]


class Plan:
    """The calls that make ``wanted`` values (by default the outputs, then the updates) from the inputs of a graph.

    Values are freed after their last use. What depends on the input shapes alone is computed once an input size.
    """

    def __init__(self, graph: Graph, wanted: Sequence[Value] | None = None) -> None:
        self.version = graph.version
        self.wanted = [*graph.output_values(), *graph.updates.values()] if wanted is None else list(wanted)
        self._guards = list(graph.guards)
        nodes = graph.ancestors([*self.wanted, *(value for value, _ in self._guards)], graph.inputs)
        self._host = {value for node in host_nodes(graph) for value in node.output_values()}
        self._memoise = not any(node.op in DATA_DEPENDENT_OPS for node in nodes)
        self._template: list[Any] = []
        self._slots: dict[Any, int] = {}
        self._steps: list[Step] = []
        self._inputs = [self._slot(value) for value in graph.inputs]
        read = {value for node in nodes for value in node.input_values()} | set(self.wanted)
        self.parameters = [(self._slot(value), name) for name, value in graph.parameters.items() if value in read]
        self._read = read
        for node in nodes:
            self._add(node)
        self._outputs = [self._argument(value, TENSOR) for value in self.wanted]
        self._guard_slots = [self._slot(value) for value, _ in self._guards]
        keep = {*self._inputs, *(slot for slot, _ in self.parameters), *self._outputs, *self._guard_slots}
        self._all = _bind(self._steps, keep)
        self._device = _bind([step for step in self._steps if not step.host], keep)
        self._kept = [step.writes for step in self._steps if step.host and isinstance(step.writes, int)]
        self._templates: dict[Any, list[Any]] = {}

    def _slot(self, key: Any) -> int:
        if key not in self._slots:
            self._slots[key] = self._constant(None)
        return self._slots[key]

    def _constant(self, item: Any) -> int:
        self._template.append(item)
        return len(self._template) - 1

    def _add(self, node: Node) -> None:
        if node.out in self._host:
            reads: list[Any] = [self._slot(value) for value in node.input_values()]
            self._steps.append(Step(_host_function(node), reads, None, self._slot(node.out), True))
            return
        call = call_of(node)
        if node.op == "assign_value" and not node.inputs:  # made once: numbers from Python are slow to copy
            self._template[self._slot(node.out)] = build(node, call, None)
            return
        reads = []
        for name, kind in call.arguments:
            slot = node.inputs.get(name)
            constant = slot is None
            reads.append(
                self._constant(constant_argument(node, name, kind)) if constant else self._argument(slot, kind)
            )
        names = tuple(name for name, _ in call.arguments) if call.keywords else None
        function, writes = self._result(node, call.function)
        self._steps.append(Step(function, reads, names, writes, False))

    def _argument(self, slot: Slot, kind: str) -> Any:
        """The slot that holds what stands at an argument in the form that its kind asks for."""
        if kind in (INTS, SCALAR):
            values = slot if isinstance(slot, list) else [slot]
            convert = as_scalar if kind == SCALAR else as_integer_list if isinstance(slot, list) else as_integers
            return self._converted(values, convert)
        if isinstance(slot, list):
            return [self._argument(value, kind) for value in slot]
        return self._converted([slot], paddle.to_tensor) if slot in self._host else self._slot(slot)

    def _converted(self, values: Sequence[Any], convert: Callable[..., Any]) -> int:
        key = (*values, convert)
        if key not in self._slots:
            reads: list[Any] = [self._slot(value) for value in values]
            host = all(value in self._host for value in values)
            self._steps.append(Step(convert, reads, None, self._slot(key), host))
        return self._slots[key]

    def _result(self, node: Node, function: Callable[..., Any]) -> tuple[Callable[..., Any], Any]:
        slots = list(node.outputs.values())
        if len(slots) == 1 and isinstance(slots[0], Value):
            return function, self._slot(slots[0])
        if any(isinstance(slot, list) for slot in slots):
            function = _unrolled(node, function)
        values = enumerate(node.output_values())
        return function, tuple((index, self._slot(value)) for index, value in values if value in self._read)

    def run(self, inputs: Sequence[Any], parameters: Sequence[tuple[int, dict[str, Any], str]]) -> list[Any]:
        """Run in eager mode.

        Args:
            inputs: a tensor for every input of the graph.
            parameters: ``(slot, table, key)``: where the tensor of each of `parameters` stands at this moment.

        Raises:
            GuardFailed: the model takes another path at this input size.
        """
        sizes = tuple(tuple(tensor.shape) for tensor in inputs)
        template = self._templates.get(sizes)
        env = list(self._template if template is None else template)
        for slot, tensor in zip(self._inputs, inputs):
            env[slot] = tensor
        for slot, table, key in parameters:
            env[slot] = table[key]
        _execute(self._all if template is None else self._device, env)
        if template is None:
            self._remember(sizes, env)
        return [env[slot] for slot in self._outputs]

    def _remember(self, sizes: Any, env: list[Any]) -> None:
        check_guards([(*guard, env[slot]) for guard, slot in zip(self._guards, self._guard_slots)], sizes)
        if not self._memoise:
            return
        if len(self._templates) >= MAX_SIZES:
            self._templates.pop(next(iter(self._templates)))
        template = list(self._template)
        for slot in self._kept:
            template[slot] = env[slot]
        self._templates[sizes] = template


def _bind(steps: Sequence[Step], keep: set[int]) -> _Bound:
    """Steps as tuples, each with the slots that nothing reads after it (except those to keep and host results)."""
    kept = keep | {step.writes for step in steps if step.host and isinstance(step.writes, int)}
    written = {slot for step in steps for slot in _written(step)}
    seen: set[int] = set()
    bound: _Bound = []
    for step in reversed(steps):
        last = {slot for slot in (*step.read_slots(), *_written(step)) if slot in written and slot not in kept | seen}
        seen |= last
        nested = any(isinstance(item, list) for item in step.reads)
        bound.append((step.function, step.reads, nested, step.names, step.writes, tuple(last)))
    return bound[::-1]


def _written(step: Step) -> list[int]:
    return [step.writes] if isinstance(step.writes, int) else [slot for _, slot in step.writes]


def _execute(steps: _Bound, env: list[Any]) -> None:
    """The inner loop: everything that could be decided before was."""
    for function, reads, nested, names, writes, frees in steps:
        if nested:
            items = [env[item] if item.__class__ is int else [env[slot] for slot in item] for item in reads]
        else:
            items = [env[slot] for slot in reads]
        result = function(*items) if names is None else function(**dict(zip(names, items)))
        if writes.__class__ is int:
            env[writes] = result
        else:
            for index, slot in writes:
                env[slot] = result[index]
        for slot in frees:
            env[slot] = None


def _host_function(node: Node) -> Callable[..., Any]:
    values = node.input_values()

    def run(*items: Any) -> Any:
        table = dict(zip(values, items))
        return run_host(node, table.__getitem__, lambda value: table[value].shape)

    return run


def _unrolled(node: Node, function: Callable[..., Any]) -> Callable[..., Any]:
    def run(*items: Any, **named: Any) -> list[Any]:
        return [item for _, item in result_values(node, function(*items, **named))]

    return run
