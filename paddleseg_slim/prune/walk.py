"""Walk a graph and push channel ids through it, op by op.

An op is known by its channel rule, registered under its name in `RULES`. A rule reads the labels of the node's inputs,
gives labels to its outputs, and notes on the way what pruning has to know: which parameter axes carry the ids, where
a channel is consumed (`Read`: there a gate goes), which attributes depend on widths (`Edit`), what the node's cost is
proportional to. An op without a rule pins what it touches and is named in the report; no op is ever guessed to be
elementwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from paddleseg_slim.graph.ir import Graph, Node, Value, slot_values
from paddleseg_slim.graph.shapes import ShapeRun
from paddleseg_slim.prune.ids import FIXED, Factor, Ids, Labels, disjoint_sets, expanded, factor_at
from paddleseg_slim.registry import Registry

Rule = Callable[["Walk", Node], None]
RULES = Registry("channel rule")

Keep = Callable[[np.ndarray], np.ndarray]
"""Ids of any shape -> bool of that shape: which of them stay."""

Change = Callable[[Graph, Node, Keep], None]


@dataclass(frozen=True)
class Read:
    """A place where channels are consumed: summed over, normalised over, compared with each other.

    Attributes:
        graph: key of the graph (``train`` or ``eval``).
        node: name of the node.
        argument: the argument whose channels are consumed.
        factor: their ids.
        kind: how a removed channel is kept out: ``zero`` (multiply by 0), ``mean`` (by 0, the others scaled up),
            ``lowest`` / ``highest`` (a huge negative / positive number is added),
            ``layer_norm`` / ``group_norm`` (statistics of the remaining channels only).
    """

    graph: str
    node: str
    argument: str
    factor: Factor
    kind: str


@dataclass(frozen=True)
class Edit:
    """An attribute that depends on widths: ``change(graph, node, keep)`` rewrites it, knowing which ids stay."""

    graph: str
    node: str
    change: Change


@dataclass(frozen=True)
class Split:
    """An axis that a reshape cut into several: what stays must be a full block, so ids may vary along one axis only.

    Attributes:
        ids: one axis a piece.
        free: the axis along which they may vary when several do; the others are united.
    """

    ids: np.ndarray
    free: int


class Walk:
    """What the walks over the graphs of one model found; parameters join the graphs.

    Attributes:
        ids: the ids and their unions.
        axes: (parameter, axis) -> ids along it.
        writes: the (parameter, axis) pairs whose positions are channels that a layer makes: convolution filters.
        labels: graph key -> value -> labels.
        reads, edits, splits: see the classes.
        factors: (graph key, node name) -> id arrays whose kept shares multiply the node's MACs.
        unknown: op -> names of the nodes that have no rule and touch channels.
    """

    def __init__(self) -> None:
        self.ids = Ids()
        self.axes: dict[tuple[str, int], np.ndarray] = {}
        self.writes: dict[tuple[str, int], str] = {}
        self.labels: dict[str, dict[Value, Labels]] = {}
        self.reads: list[Read] = []
        self.edits: list[Edit] = []
        self.splits: list[Split] = []
        self.factors: dict[tuple[str, str], list[np.ndarray]] = {}
        self.unknown: dict[str, list[str]] = {}
        self._key = ""
        self._graph: Graph
        self._sizes: ShapeRun

    # ---- what rules read

    def shape(self, value: Value) -> tuple[int, ...]:
        """Concrete shape of ``value`` at the sample size."""
        return tuple(self._sizes.shape(value))

    def integers(self, node: Node, argument: str) -> list[int] | None:
        """Integers at an argument, constant or computed from shapes; None when they are neither."""
        constant = node.attrs.get(argument)
        if constant is not None:
            return [int(i) for i in np.ravel(constant)]
        values = slot_values(node.inputs.get(argument))
        if not values or any(v.producer is None for v in values):
            return None
        self._sizes.need(values)
        if any(v not in self._sizes.host for v in values):
            return None
        return [int(i) for v in values for i in np.ravel(self._sizes.host[v])]

    def only_user(self, value: Value) -> Node | None:
        """The node that alone reads ``value``; None when there are others or the model gives it out."""
        users = self._graph.users(value)
        return users[0] if len(users) == 1 and value not in self._graph.kept_values() else None

    def is_weight(self, value: Value) -> bool:
        """Whether ``value`` is a parameter."""
        return self._graph.parameter_name(value) is not None

    def axis(self, value: Value, axis: int) -> np.ndarray | None:
        """Ids along ``axis`` alone; None when nothing on it can be removed.

        Where a factor spans further axes, the ids along those are united first.
        """
        factor = factor_at(self.of(value), axis)
        if factor is None:
            return None
        place = factor.axes.index(axis)
        ids = factor.ids
        for other in range(ids.ndim):
            if other != place:
                self.ids.unite_along(ids, other)
        return np.moveaxis(ids, place, 0).reshape(ids.shape[place], -1)[:, 0]

    def of(self, value: Value) -> Labels:
        """Labels of ``value``; a parameter met for the first time gets fresh ids on every axis longer than 1."""
        known = self.labels[self._key]
        if value not in known:
            name = self._graph.parameter_name(value)
            sizes = value.shape if name is not None else ()
            known[value] = tuple(
                Factor((axis,), self.parameter_axis(name or "", axis, size))
                for axis, size in enumerate(sizes)
                if size > 1
            )
        return known[value]

    def parameter_axis(self, name: str, axis: int, size: int) -> np.ndarray:
        """Ids along an axis of a parameter, made at the first call."""
        if (name, axis) not in self.axes:
            self.axes[name, axis] = self.ids.fresh(size)
        return self.axes[name, axis]

    # ---- what rules write

    def set(self, value: Value, labels: Labels) -> None:
        """Give ``value`` its labels; ids over axes of size 1 are dropped (one channel cannot be removed)."""
        self.labels[self._key][value] = tuple(f for f in labels if f.ids.size > 1)

    def bind(self, value: Value, axis: int, ids: np.ndarray | None, node: Node) -> None:
        """Say that the positions on ``axis`` of ``value`` (a parameter, mostly) are the channels ``ids``.

        ``ids`` of None (fixed channels) pins the axis.
        """
        name = self._graph.parameter_name(value)
        if name is not None and ids is not None and (name, axis) not in self.axes:
            self.axes[name, axis] = np.ascontiguousarray(ids)
            return
        own = self.axes.get((name, axis)) if name is not None else self.axis(value, axis)
        if own is None and ids is None:
            return
        if own is not None and ids is not None:
            self.ids.unite(own, ids)
        else:
            for loose in (own, ids):
                if loose is not None:
                    self.ids.pin(loose, f"{node.name} ({node.op}) joins them to fixed channels")

    def made(self, value: Value, axis: int, node: Node) -> np.ndarray | None:
        """Ids of the channels that the layer's weight ``value`` writes along ``axis``."""
        name = self._graph.parameter_name(value)
        if name is None:
            return self.axis(value, axis)
        self.writes.setdefault((name, axis), node.name)
        return self.parameter_axis(name, axis, value.shape[axis])

    def pin(self, labels: Labels, reason: str) -> None:
        """Pin every id in ``labels``."""
        for factor in labels:
            self.ids.pin(factor.ids, reason)

    def only(self, value: Value, axes: Sequence[int], node: Node, what: str) -> None:
        """Pin the ids of ``value`` on all axes but ``axes``: the op treats those as positions, not channels."""
        rest = tuple(f for f in self.of(value) if not set(f.axes) <= set(axes))
        self.pin(tuple(f for f in rest if not set(f.axes) & set(axes)), f"{node.name} ({node.op}): {what}")
        for factor in rest:
            for axis in set(factor.axes) - set(axes):
                if set(factor.axes) & set(axes):
                    self.ids.unite_along(factor.ids, factor.axes.index(axis))

    def read(self, node: Node, argument: str, factor: Factor | None, kind: str = "zero") -> None:
        """Note that ``node`` consumes the channels in ``factor`` of its ``argument``."""
        if factor is not None:
            self.reads.append(Read(self._key, node.name, argument, factor, kind))

    def edit(self, node: Node, change: Change) -> None:
        """Note that attributes of ``node`` depend on widths."""
        self.edits.append(Edit(self._key, node.name, change))

    def costs(self, node: Node, *ids: np.ndarray | None) -> None:
        """Note the id arrays to whose kept share the MACs of ``node`` are proportional."""
        self.factors[self._key, node.name] = [a for a in ids if a is not None]

    def joined(self, parts: Sequence[tuple[Labels, Sequence[int]]], node: Node) -> Labels:
        """Labels of an elementwise result: overlapping factors united, broadcasting as NumPy does.

        Args:
            parts: for each operand its labels in the axes of the result, and its sizes there (1: broadcast).
        """
        sizes = [max(column) for column in zip(*(sizes for _, sizes in parts))]
        result = []
        for axes in disjoint_sets(f.axes for labels, _ in parts for f in labels):
            block = [sizes[a] for a in axes]
            base: np.ndarray | None = None
            loose: list[int] = []
            for labels, own in parts:
                mine = [f for f in labels if set(f.axes) <= set(axes)]
                covered = {a for f in mine for a in f.axes}
                loose += [a for a in axes if a not in covered and own[a] > 1]
                for factor in mine:
                    ids = expanded(factor, axes, block)
                    base = ids if base is None else base
                    self.ids.unite(base, ids)
            assert base is not None
            if loose and len(axes) == 1:
                self.ids.pin(base, f"{node.name} ({node.op}) combines them with fixed channels")
            elif loose:
                for axis in set(loose):
                    self.ids.unite_along(base, axes.index(axis))
                if set(loose) == set(axes):
                    self.ids.pin(base, f"{node.name} ({node.op}) combines them with fixed channels")
            result.append(Factor(axes, base))
        return tuple(result)

    # ---- the walk

    def run(self, key: str, graph: Graph, sizes: ShapeRun) -> None:
        """Walk ``graph``, known as ``key`` from then on; ``sizes`` infers its shapes at a sample size."""
        self._key, self._graph, self._sizes = key, graph, sizes
        self.labels[key] = dict.fromkeys(graph.inputs, FIXED)
        for node in graph.nodes:
            touched = [v for v in node.input_values() if graph.parameter_name(v) is not None or self.of(v)]
            if not touched and node.op not in _MAKES_CHANNELS:
                continue
            if node.op in RULES:
                RULES.get(node.op)(self, node)
            else:
                self._refuse(node)
            for value in node.output_values():
                self.labels[key].setdefault(value, FIXED)
        for value in graph.output_values():
            self.pin(self.of(value), "they are the network's output")
        for name, value in graph.updates.items():
            self._keep_in_step(name, value)

    def _keep_in_step(self, name: str, value: Value) -> None:
        """The stored tensor ``name`` gets ``value`` after a run: it loses the channels that ``value`` loses."""
        for axis, size in enumerate(self.shape(value)):
            ids, own = self.axis(value, axis), self.axes.get((name, axis))
            if own is None and ids is not None and size > 1:
                self.axes[name, axis] = np.ascontiguousarray(ids)
            elif own is not None and ids is not None:
                self.ids.unite(own, ids)
            elif own is not None:
                self.ids.pin(own, f"the model writes fixed channels into {name}")

    def _refuse(self, node: Node) -> None:
        reason = f"{node.name}: no channel rule for the op {node.op!r}"
        labels = [f for v in node.input_values() for f in self.of(v)]
        if labels:
            self.unknown.setdefault(node.op, []).append(node.name)
        self.pin(tuple(labels), reason)

    def settle(self) -> np.ndarray:
        """Unite what reshapes force together until nothing changes; return the component of every id."""
        components = self.ids.components()
        pending = list(self.splits)
        while pending:
            rest, changed = [], False
            for split in pending:
                block = components[split.ids]
                varies = [a for a in range(block.ndim) if (block != block.take([0], axis=a)).any()]
                if len(varies) <= 1:
                    rest.append(split)
                    continue
                free = split.free if split.free in varies else varies[-1]
                for axis in varies:
                    if axis != free:
                        self.ids.unite_along(split.ids, axis)
                changed = True
            if not changed:
                break
            components, pending = self.ids.components(), list(self.splits)
        return components


_MAKES_CHANNELS = frozenset({"full", "full_with_tensor", "uniform", "gaussian", "expand", "tile"})
"""Ops whose result may have an axis that must follow the channels of what it meets, though no input has channels."""


def attr(node: Node, name: str, default: Any = None) -> Any:
    """An attribute of a node; None stands for one that the model computes from shapes."""
    return node.attrs.get(name, default)


def listed(node: Node, argument: str) -> list[Value]:
    """The values at an argument that takes a list."""
    return slot_values(node.inputs.get(argument))
