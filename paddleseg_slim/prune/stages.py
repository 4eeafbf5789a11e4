"""A model cut into stages, so that a point of the sensitivity analysis runs only what its gates change.

The graph is cut in front of the first readers of the groups' channels. Every stage is made ready for the engine twice:
as it is, and with gates. The untouched model runs once a batch and its values at the cuts are kept. A point then runs
the stages that hold gates of its group, and those that read what came out differently; all others keep their values.
Two models' worth of nodes are prepared in all, however many groups there are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from paddleseg_slim.graph.executor import Executor, Runner
from paddleseg_slim.graph.ir import Graph, Node, Value
from paddleseg_slim.graph.part import cheap_values, extract
from paddleseg_slim.prune.channels import ChannelGroups
from paddleseg_slim.prune.gates import Gate, GatedGraph, insert_gates

_MOST_STAGES = 16
"""More would recompute less in front of a group's first gate, and lose as much at the cuts."""


@dataclass(frozen=True, eq=False)
class _Variant:
    """One form of a stage, ready to run; ``names`` maps what the engine calls an output to what the model calls it."""

    run: Runner
    names: dict[str, str]


@dataclass(frozen=True, eq=False)
class _Stage:
    """A run of nodes.

    Attributes:
        reads: values it is fed with, gates aside.
        plain: without gates.
        gated: with them; None where it has none.
        gates: of ``gated``.
        groups: names of the groups whose gates are here.
    """

    reads: tuple[str, ...]
    plain: _Variant
    gated: _Variant | None
    gates: tuple[Gate, ...]
    groups: frozenset[str]


class Stages:
    """The stages of a model for some of its groups, made ready for an engine.

    Args:
        groups: of the model.
        names: of the groups that will be gated.
        executor: the engine.
        pick: picks from the model's outputs the one that counts.
        most: most stages.

    Attributes:
        wanted: name of the output that counts.
        macs: multiply-accumulates of one image at the sample size, and ``point_macs`` those of a point by group name.
    """

    def __init__(
        self,
        groups: ChannelGroups,
        names: Sequence[str],
        executor: Executor,
        pick: Callable[[Any], Any],
        most: int = _MOST_STAGES,
    ) -> None:
        graph = groups.model.eval_graph
        output = pick(graph.outputs)
        if not isinstance(output, Value):
            raise TypeError("the metric must be of one output of the model")
        self.wanted = output.name
        self.inputs = [value.name for value in graph.inputs]
        self._neutral = groups.keep({})
        tensors = dict(groups.model.tensors())
        self._stages: list[_Stage] = []
        self._macs: list[int] = []
        for part, macs in _parts(groups, output, set(names), most):
            gated = insert_gates(groups, names, part=part)
            self._stages.append(_prepared(part, gated, executor, tensors))
            self._macs.append(macs)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image at the sample size."""
        return sum(self._macs)

    def point_macs(self, name: str) -> int:
        """Multiply-accumulates that a point of this group runs for one image."""
        touched: set[str] = set()
        total = 0
        for stage, macs in zip(self._stages, self._macs):
            if name in stage.groups or touched.intersection(stage.reads):
                touched.update(stage.plain.names.values())
                total += macs
        return total

    def start(self, batch: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Values at the cuts, and the output, of the untouched model."""
        values = {self.inputs[0]: np.asarray(batch["img"])}
        for stage in self._stages:
            values.update(_run(stage.plain, {name: values[name] for name in stage.reads}))
        return values

    def point(self, name: str, values: Mapping[str, np.ndarray], alive: np.ndarray) -> np.ndarray:
        """Output of the model with the channels of group ``name`` that are not ``alive`` gated.

        Args:
            name: of the group.
            values: what `start` gave.
            alive: see `ChannelGroups.keep`.
        """
        changed: dict[str, np.ndarray] = {}
        for stage in self._stages:
            gated = stage.gated if name in stage.groups else None
            if gated is None and not any(read in changed for read in stage.reads):
                continue
            feeds = {read: changed[read] if read in changed else values[read] for read in stage.reads}
            if gated is not None:
                for gate in stage.gates:
                    feeds[gate.value.name] = gate.array(alive if name in gate.groups else self._neutral)
            changed.update(_run(gated or stage.plain, feeds))
        return changed[self.wanted] if self.wanted in changed else values[self.wanted]


def _run(variant: _Variant, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {variant.names[name]: array for name, array in variant.run(feeds).items()}


def _prepared(part: Graph, gated: GatedGraph, executor: Executor, tensors: Mapping[str, Any]) -> _Stage:
    def ready(graph: Graph) -> _Variant:
        made = zip(graph.output_values(), part.output_values())
        return _Variant(
            executor.prepare(graph, {name: tensors[name] for name in graph.parameters}),
            {value.name: original.name for value, original in made},
        )

    groups = frozenset(name for gate in gated.gates for name in gate.groups)
    reads = tuple(value.name for value in part.inputs)
    return _Stage(reads, ready(part), ready(gated.graph) if gated.gates else None, gated.gates, groups)


def _parts(groups: ChannelGroups, output: Value, names: set[str], most: int) -> list[tuple[Graph, int]]:
    """The stages as graphs, with their multiply-accumulates."""
    graph = groups.model.eval_graph
    again = cheap_values(graph)
    nodes = [node for node in graph.ancestors([output]) if not all(v in again for v in node.output_values())]
    macs = [groups.node_macs(node) for node in nodes]
    cuts = _cuts(nodes, macs, _first_readers(groups, nodes, names), most)
    stage_of = {
        value: number
        for number, (start, stop) in enumerate(zip(cuts, cuts[1:]))
        for node in nodes[start:stop]
        for value in node.output_values()
        if value not in again
    }
    given = [*graph.inputs, *stage_of]
    needed: list[list[Value]] = [[] for _ in cuts[1:]]
    needed[stage_of[output]].append(output)
    parts: list[tuple[Graph, int]] = []
    for number in reversed(range(len(cuts) - 1)):
        outside = [value for value in given if stage_of.get(value, -1) != number]
        part = extract(graph, _frontier(graph, needed[number], outside), needed[number])
        for value in part.inputs:
            maker = stage_of.get(graph.value(value.name))
            if maker is not None and graph.value(value.name) not in needed[maker]:
                needed[maker].append(graph.value(value.name))
        parts.append((part, sum(macs[cuts[number] : cuts[number + 1]])))
    return parts[::-1]


def _frontier(graph: Graph, wanted: list[Value], outside: list[Value]) -> list[Value]:
    """Those of the values made ``outside`` that ``wanted`` are computed from."""
    read = {value for node in graph.ancestors(wanted, outside) for value in node.input_values()}
    return [value for value in outside if value in read]


def _first_readers(groups: ChannelGroups, nodes: Sequence[Node], names: set[str]) -> dict[int, int]:
    """Place of a node -> how many of the groups are consumed there first."""
    place = {node.name: number for number, node in enumerate(nodes)}
    first: dict[str, int] = {}
    for read in groups.walk.reads:
        if read.graph != "eval" or read.node not in place:
            continue
        owners = groups.owner_of(groups.components[read.factor.ids])
        for owner in np.unique(owners[owners >= 0]):
            name = groups.groups[owner].name
            if name in names:
                first[name] = min(first.get(name, len(nodes)), place[read.node])
    counts: dict[int, int] = {}
    for number in first.values():
        counts[number] = counts.get(number, 0) + 1
    return counts


def _cuts(nodes: Sequence[Node], macs: Sequence[int], readers: Mapping[int, int], most: int) -> list[int]:
    """Where stages begin, and the end: at first readers; the cuts that save least are left out."""
    before = np.concatenate(([0], np.cumsum(macs)))
    cuts = sorted({0, *readers})
    while len(cuts) > most:
        # without a cut, what begins there runs the stage before it as well
        begins = [
            sum(n for at, n in readers.items() if cuts[i] <= at < _next(cuts, i, nodes)) for i in range(len(cuts))
        ]
        saved = [begins[i] * (before[cuts[i]] - before[cuts[i - 1]]) for i in range(1, len(cuts))]
        del cuts[1 + int(np.argmin(saved))]
    return [*cuts, len(nodes)]


def _next(cuts: Sequence[int], i: int, nodes: Sequence[Node]) -> int:
    return cuts[i + 1] if i + 1 < len(cuts) else len(nodes)
