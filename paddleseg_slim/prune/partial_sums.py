"""Convolutions of a tail that run for some of their channels: what the others add up to is there already.

A convolution sums over the channels that it reads. What a tail does not compute of them comes from the untouched model.
The sum over these is made once a batch, for all points and tails of a round; where points mask them, what leaves is
subtracted.

The difference of two sums is rounded as they are, to a millionth of the larger one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from paddleseg_slim.graph.edit import add_node, remove_dead_nodes, replace_value
from paddleseg_slim.graph.executor import Executor
from paddleseg_slim.graph.fold import norm_factor, norms_behind
from paddleseg_slim.graph.ir import Graph, Node, Value, slot_values
from paddleseg_slim.graph.shapes import ShapeRun
from paddleseg_slim.prune.channels import ChannelGroups
from paddleseg_slim.prune.gates import Gate, GatedGraph

Values = Mapping[str, np.ndarray]
"""Values of the untouched model, and sums, by name."""

SumOf = Callable[[np.ndarray], np.ndarray]
"""The sum at a point, from which components are there (`ChannelGroups.keep`)."""


@dataclass(frozen=True, eq=False)
class Source:
    """Channels that a convolution reads and its tail does not compute.

    Attributes:
        value: holds them; one of the untouched model.
        channels: of the convolution's input.
        gate: tells which of them a point masks; None where it masks none.
    """

    value: Value
    channels: slice
    gate: Gate | None


@dataclass(frozen=True, eq=False)
class PartialSum:
    """What the sources of a convolution add up to, behind the factor of its BatchNorm.

    Attributes:
        name: of the sum where the tail reads it.
        shape: of the sum where images have the sample size; -1 is the batch.
        node: the convolution.
        filter: its parameter, of all input channels.
        norm: the BatchNorm that follows; None where there is none.
        sources: that are summed.
        whole: they are all channels: the sum has bias and shift too, and is a value of the untouched model.
    """

    name: str
    shape: tuple[int, ...]
    node: Node
    filter: str
    norm: Node | None
    sources: tuple[Source, ...]
    whole: bool

    @property
    def reads(self) -> list[str]:
        """Names of the values of the untouched model that it is made of, or made smaller by."""
        needed = [source.value.name for source in self.sources if source.gate or not self.whole]
        return [*needed, self.name] if self.whole else needed

    def maker(self, executor: Executor, tensors: Mapping[str, Any]) -> Callable[[Values], np.ndarray]:
        """Makes the sum of a batch; not for one that is a value of the untouched model."""
        given = {s.value.name: Value(s.value.name, s.value.dtype, s.value.shape) for s in self.sources}
        filters = self._filters(tensors, self.sources)
        graph = Graph(list(given.values()))
        read = [given[source.value.name] for source in self.sources]
        graph.parameters["filter"] = Value("filter", "float32", filters.shape)
        x = read[0] if len(read) == 1 else add_node(graph, None, "concat", "x", {"x": read}, {"axis": 1}).out
        graph.outputs = {self.name: self._convolution(graph, x, graph.parameters["filter"])}
        run = executor.prepare(graph, {"filter": filters})
        return lambda values: run({name: values[name] for name in given})[graph.output_values()[0].name]

    def ready(self, executor: Executor, tensors: Mapping[str, Any]) -> Callable[[Values], SumOf]:
        """``ready(executor, tensors)(values)(alive)`` is the sum of what a point leaves (`ChannelGroups.keep`).

        What is gone at one point must be gone at all that follow; the array is that of the point before.
        """
        gated = [(s.value.name, s.gate, self._filters(tensors, [s])) for s in self.sources if s.gate]
        if not gated:
            return lambda values: lambda alive: values[self.name]
        kernel = gated[0][2].shape[2:]
        graph = Graph([Value("x", "float32", (-1, -1, -1, -1)), Value("filter", "float32", (-1, -1, *kernel))])
        out = self._convolution(graph, *graph.inputs)
        graph.outputs = {"sum": out}
        run = executor.prepare(graph, {})

        def start(values: Values) -> SumOf:
            total, left = values[self.name].copy(), [np.ones(filters.shape[1], bool) for _, _, filters in gated]

            def sum_of(alive: np.ndarray) -> np.ndarray:
                for (name, gate, filters), stays in zip(gated, left):
                    leaves = np.flatnonzero(stays & (gate.array(alive).reshape(-1) == 0))
                    if len(leaves):
                        stays[leaves] = False
                        feeds = {"x": values[name][:, leaves], "filter": filters[:, leaves]}
                        np.subtract(total, run(feeds)[out.name], out=total)
                return total

            return sum_of

        return start

    def _filters(self, tensors: Mapping[str, Any], sources: Sequence[Source]) -> np.ndarray:
        """Float32 ``[out, channels of the sources, kh, kw]`` with the factor of the BatchNorm."""

        def array(name: str) -> np.ndarray:
            return np.asarray(tensors[name])

        weight = np.concatenate([array(self.filter)[:, s.channels] for s in sources], axis=1)
        if self.norm is not None:
            weight = weight * norm_factor(self.norm, array)[:, None, None, None]
        return np.ascontiguousarray(weight, np.float32)

    def _convolution(self, graph: Graph, x: Value, filters: Value) -> Value:
        last = graph.nodes[-1] if graph.nodes else None
        node = add_node(graph, last, self.node.op, "partial", {"input": x, "filter": filters}, self.node.attrs)
        node.out.shape = (-1, filters.shape[0], -1, -1)
        return node.out


@dataclass(frozen=True, eq=False)
class Split:
    """A gated graph whose convolutions are split.

    Attributes:
        gated: its graph reads the sums, and nothing any more that is read for them alone.
        sums: that it reads.
        filters: new parameter -> the one that it is a part of, and which of its input channels it has (bool).
        skipped: convolution -> the part of its multiply-accumulates that the graph leaves out.
        leaving: convolution -> the part that takes all masked channels out of its sum.
    """

    gated: GatedGraph
    sums: tuple[PartialSum, ...]
    filters: Mapping[str, tuple[str, np.ndarray]]
    skipped: Mapping[str, float]
    leaving: Mapping[str, float]


def split_sums(groups: ChannelGroups, group: str, gated: GatedGraph, sizes: ShapeRun) -> Split:
    """Split the convolutions of a tail.

    Args:
        groups: of the model.
        group: whose tail it is.
        gated: the tail with gates and masks of the group; its graph is edited.
        sizes: of the eval graph.
    """
    graph, whole_graph = gated.graph, groups.model.eval_graph
    norms, gone = norms_behind(graph), groups.by_name[group].components
    sums: list[PartialSum] = []
    filters: dict[str, tuple[str, np.ndarray]] = {}
    skipped: dict[str, float] = {}
    leaving: dict[str, float] = {}
    given = set(graph.inputs) - {gate.value for gate in gated.gates}
    for node in _convolutions(graph):
        norm, weight = norms.get(node.name), node.value("filter")
        out = (norm or node).out
        sources, rest = _pieces(gated, given, gone, node)
        if not sources or graph.is_output(out):
            continue
        name = "/".join([(norm or node).name, "sum", *(f"{s.value.name}@{s.channels.start}" for s in sources)])
        total = Value(name if rest else out.name, "float32", out.shape)
        shape = sizes.shape(whole_graph.value(out.name))
        sums.append(PartialSum(total.name, shape, node, weight.name, norm, tuple(sources), not rest))
        graph.inputs.append(total)
        own = np.ones(weight.shape[1], bool)
        for source in sources:
            own[source.channels] = False
        skipped[node.name] = 1 - float(own.mean())
        leaving[node.name] = sum(s.value.shape[1] for s in sources if s.gate) / len(own)
        if not rest:
            replace_value(graph, out, total)
            continue
        part = Value(f"{weight.name}/{node.name}", weight.dtype, (weight.shape[0], int(own.sum()), *weight.shape[2:]))
        graph.parameters[part.name], filters[part.name] = part, (weight.name, own)
        node.inputs.update(filter=part, input=_joined(graph, node, rest))
        users = graph.users(out)
        add = add_node(graph, out.producer, "add", f"{node.name}/add", {"x": out, "y": total}, {})
        replace_value(graph, out, add.out, users)
    remove_dead_nodes(graph)
    graph.inputs = [value for value in graph.inputs if graph.users(value) or graph.is_output(value)]
    graph.touch()
    graph.check()
    names = {value.name for value in graph.inputs}
    gates = tuple(gate for gate in gated.gates if gate.value.name in names)
    masks = tuple((name, gate) for name, gate in gated.masks if name in names)
    return Split(GatedGraph(graph, gates, masks), tuple(sums), filters, skipped, leaving)


def _convolutions(graph: Graph) -> list[Node]:
    """Those that add up all channels that they read."""
    return [
        node
        for node in graph.nodes
        if node.op == "conv2d"
        and int(node.attrs.get("groups") or 1) == 1
        and node.attrs.get("data_format", "NCHW") == "NCHW"
        and graph.parameter_name(node.value("filter")) is not None
    ]


def _pieces(
    gated: GatedGraph, given: Collection[Value], gone: np.ndarray, node: Node
) -> tuple[list[Source], list[Value]]:
    """What a convolution reads of the untouched model, and what the graph computes for it.

    ``given`` are the values of the untouched model, ``gone`` the components that points let go. All is taken to be
    computed where gates do not allow to tell.
    """
    x = node.value("input")
    gate = _gate_of(gated, x)
    if gate is not None and x.producer is not None:
        x = x.producer.value("x")
    sources: list[Source] = []
    rest: list[Value] = []
    start = 0
    for piece in _joined_by(x):
        channels = slice(start, start + piece.shape[1])
        start = channels.stop
        masks = [mask for name, mask in gated.masks if name == piece.name and piece in given]
        if gate is not None and np.isin(gate.components[:, channels], gone).any():
            masks.append(replace(gate, components=gate.components[:, channels]))
        if any(
            not _is_plain(mask, piece) or not np.array_equal(mask.components, masks[0].components) for mask in masks
        ):
            return [], []
        if piece in given:
            sources.append(Source(piece, channels, masks[0] if masks else None))
        elif masks:
            return [], []
        else:
            rest.append(piece)
    return (sources, rest) if start == node.value("filter").shape[1] else ([], [])


def _gate_of(gated: GatedGraph, x: Value) -> Gate | None:
    """The gate that ``x`` is multiplied with."""
    node = x.producer
    if node is None or node.op != "multiply":
        return None
    return next((gate for gate in gated.gates if gate.value is node.inputs.get("y")), None)


def _is_plain(gate: Gate, value: Value) -> bool:
    """Whether it multiplies each channel of ``value`` with zero or one."""
    return gate.kind == "zero" and gate.components.shape == (1, value.shape[1], 1, 1)


def _joined_by(x: Value) -> list[Value]:
    """The values that a concat of channels joins; ``x`` itself where it comes from elsewhere."""
    node = x.producer
    if node is None or node.op != "concat":
        return [x]
    pieces = slot_values(node.inputs["x"])
    along = len(pieces) > 1 and sum(piece.shape[1] for piece in pieces) == x.shape[1]
    return pieces if along and all(piece.shape[1] > 0 for piece in pieces) else [x]


def _joined(graph: Graph, before: Node, pieces: Sequence[Value]) -> Value:
    """One value of these pieces for a node."""
    if len(pieces) == 1:
        return pieces[0]
    last = graph.nodes[graph.nodes.index(before) - 1]
    node = add_node(graph, last, "concat", f"{before.name}/concat", {"x": list(pieces)}, {"axis": 1})
    node.out.shape = (pieces[0].shape[0], sum(piece.shape[1] for piece in pieces), *pieces[0].shape[2:])
    return node.out
