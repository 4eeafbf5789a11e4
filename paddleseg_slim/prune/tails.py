"""The tail of a group: the part of a model that depends on its channels. More does not run at a point of the analysis.

The untouched model runs once a batch, and the values that tails read from it are kept. A point masks those of them that
carry the group's channels and runs the tail. Gates are left only where the channels are read again further inside: they
cost an engine its fused layers, in ONNX Runtime as much as a convolution. A convolution runs only for what changes of
its input (`partial_sums`).

Tails are made ready in rounds, as many at a time as memory is set aside for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from paddleseg_slim.graph.executor import Executor
from paddleseg_slim.graph.ir import Graph, Node, Value
from paddleseg_slim.graph.part import extract, part_behind
from paddleseg_slim.graph.shapes import ShapeRun, infer_shapes
from paddleseg_slim.prune.channels import ChannelGroups
from paddleseg_slim.prune.gates import Gate, insert_gates
from paddleseg_slim.prune.partial_sums import PartialSum, Values, split_sums

_MOST_BYTES = 2 << 30
"""Of a round: weights, what is read of two batches, and what engines keep for each tail (twice its largest value)."""


@dataclass(frozen=True, eq=False)
class Tail:
    """What depends on a group.

    Attributes:
        group: its name.
        graph: with gates; its only output is the model's. None where that does not depend on the group.
        reads: names of the values of the untouched model that are needed for it, and their shapes where images have the
            sample size; -1 is the batch.
        sums: that it is fed with besides.
        masks: (one of the values read, gate): by what it is to be multiplied.
        gates: what the graph is fed with besides.
        filters: parameter of the graph that is a part of one of the model -> that one, and which input channels.
        macs: multiply-accumulates of one image at the sample size.
        leaving_macs: of the channels that leave the sums, once through all points, at most.
        largest: elements of the largest value in it, of the same image.
    """

    group: str
    graph: Graph | None
    reads: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    sums: tuple[PartialSum, ...] = ()
    masks: tuple[tuple[str, Gate], ...] = ()
    gates: tuple[Gate, ...] = ()
    filters: Mapping[str, tuple[str, np.ndarray]] = field(default_factory=dict)
    macs: int = 0
    leaving_macs: int = 0
    largest: int = 0

    def ready(self, executor: Executor, tensors: Mapping[str, Any], sized: bool = False) -> Points:
        """Make it ready for an engine, with these parameters by name; ``sized`` for images of the sample size alone."""
        if self.graph is None:
            return lambda values, output, alive, start=0: (output for _ in alive[start:])
        used = {name: self._parameter(name, tensors) for name in self.graph.parameters}
        shapes = {**self.reads, **{made.name: made.shape for made in self.sums}}
        run = executor.prepare(self.graph, used, shapes if sized else None)
        sums = {made.name: made.ready(executor, tensors) for made in self.sums}
        fed = [value.name for value in self.graph.inputs if value.name in self.reads and value.name not in sums]

        def points(
            values: Values, output: np.ndarray, alive: Sequence[np.ndarray], start: int = 0
        ) -> Iterator[np.ndarray]:
            masked = {name: values[name].copy() for name, _ in self.masks}
            left = {name: begin(values) for name, begin in sums.items()}
            for number, stays in enumerate(alive):
                for name, gate in self.masks:
                    _mask(masked[name], gate.array(stays))
                feeds = {name: sum_of(stays) for name, sum_of in left.items()}
                if number < start:
                    continue
                feeds.update((name, masked.get(name, values[name])) for name in fed)
                feeds.update((gate.value.name, gate.array(stays)) for gate in self.gates)
                yield next(iter(run(feeds).values()))

        return points

    def _parameter(self, name: str, tensors: Mapping[str, Any]) -> Any:
        if name not in self.filters:
            return tensors[name]
        whole, channels = self.filters[name]
        return np.ascontiguousarray(np.asarray(tensors[whole])[:, channels])


class Points(Protocol):
    """A tail made ready for an engine."""

    def __call__(
        self, values: Values, output: np.ndarray, alive: Sequence[np.ndarray], start: int = 0
    ) -> Iterator[np.ndarray]:
        """Outputs of the model at points from number ``start`` on, to the last bit whatever that is.

        Args:
            values: that `Head.run` gave, and
            output: of the model.
            alive: which components are there at each point (`ChannelGroups.keep`); who is gone at one is gone at all
                that follow.
            start: the first that is wanted.
        """
        ...


def _mask(array: np.ndarray, mask: np.ndarray) -> None:
    """Set to zero, in place, what a mask of zeros and ones that broadcasts does not keep."""
    axes = [axis for axis, size in enumerate(mask.shape) if size > 1]
    if len(axes) == 1:  # a mask of channels: only what goes is touched
        array[(slice(None),) * axes[0] + (np.flatnonzero(mask == 0),)] = 0
    else:
        array *= mask


class Head:
    """The untouched model, made ready for an engine.

    Args:
        groups: of the model.
        tails: whose values are wanted.
        executor: the engine.
        pick: picks from the model's outputs the one that counts.
        sized: for images of the sample size alone.
    """

    def __init__(
        self,
        groups: ChannelGroups,
        tails: Sequence[Tail],
        executor: Executor,
        pick: Callable[[Any], Any],
        sized: bool = False,
    ) -> None:
        graph = groups.model.eval_graph
        self._input, output = graph.inputs[0].name, output_of(graph, pick)
        reads = dict.fromkeys(name for tail in tails for name in tail.reads if name != self._input)
        part = extract(graph, graph.inputs, [output, *map(graph.value, reads)])
        tensors = dict(groups.model.tensors())
        used = {name: tensors[name] for name in part.parameters}
        self._run = executor.prepare(part, used, input_shapes(groups) if sized else None)
        self._output = output.name
        sums = {made.name: made for tail in tails for made in tail.sums if not made.whole}
        self._sums = {name: made.maker(executor, tensors) for name, made in sums.items()}

    def run(self, images: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """What the tails read, and the output, of a batch ``[N, C, H, W]``."""
        values = {**self._run({self._input: images}), self._input: images}
        values.update({name: made(values) for name, made in self._sums.items()})
        return values, values[self._output]


def output_of(graph: Graph, pick: Callable[[Any], Any]) -> Value:
    """The output that ``pick`` takes from those of a model."""
    output = pick(graph.outputs)
    if not isinstance(output, Value):
        raise TypeError("the metric must be of one output of the model")
    return output


def find_tails(groups: ChannelGroups, names: Iterable[str], pick: Callable[[Any], Any]) -> list[Tail]:
    """The tails of these groups, to the output that ``pick`` takes from the model's."""
    output = output_of(groups.model.eval_graph, pick)
    graph, readers = groups.model.eval_graph, _readers(groups)
    shapes = input_shapes(groups)
    sizes = infer_shapes(graph, [shapes[value.name] for value in graph.inputs])
    return [_tail(groups, name, readers.get(name, []), output, sizes) for name in names]


def input_shapes(groups: ChannelGroups) -> dict[str, tuple[int, ...]]:
    """Shapes of the model's inputs at the sample size, in batches of any size."""
    inputs = groups.model.eval_graph.inputs
    return {value.name: (value.shape[0], *groups.sizes.shape(value)[1:]) for value in inputs}


def _tail(groups: ChannelGroups, name: str, readers: Sequence[Node], output: Value, sizes: ShapeRun) -> Tail:
    part = part_behind(groups.model.eval_graph, readers, output)
    if part is None:
        return Tail(name, None)
    graph = groups.model.eval_graph
    nodes = [graph.node(node.name) for node in part.nodes]
    split = split_sums(groups, name, insert_gates(groups, [name], part=part, mask_inputs=True), sizes)
    gated = split.gated
    largest = max(math.prod(groups.sizes.shape(value)) for node in nodes for value in node.output_values())
    macs = {node.name: groups.node_macs(node) for node in nodes}
    needed = dict.fromkeys(value.name for value in gated.graph.inputs if graph.has_value(value.name))
    needed.update(dict.fromkeys(name for made in split.sums for name in made.reads))
    return Tail(
        name,
        gated.graph,
        {name: sizes.shape(graph.value(name)) for name in needed},
        split.sums,
        gated.masks,
        gated.gates,
        split.filters,
        round(sum(count * (1 - split.skipped.get(name, 0.0)) for name, count in macs.items())),
        round(sum(macs[name] * share for name, share in split.leaving.items())),
        largest,
    )


def _readers(groups: ChannelGroups) -> dict[str, list[Node]]:
    """Group -> the nodes of the eval graph at which its channels are consumed."""
    graph, readers = groups.model.eval_graph, dict[str, list[Node]]()
    for read in groups.walk.reads:
        if read.graph != "eval" or not graph.has_node(read.node):
            continue
        owners = groups.owner_of(groups.components[read.factor.ids])
        for owner in np.unique(owners[owners >= 0]):
            readers.setdefault(groups.groups[owner].name, []).append(graph.node(read.node))
    return readers


def rounds_of(groups: ChannelGroups, tails: Sequence[Tail], batch: int) -> list[list[Tail]]:
    """The tails in the order given, in rounds that fit into memory with batches of ``batch`` images."""
    graph, tensors = groups.model.eval_graph, dict(groups.model.tensors())
    rounds: list[list[Tail]] = [[]]
    spent, known = 0, set[str]()
    for tail in tails:
        own = sum(math.prod(value.shape) for value in (tail.graph.parameters.values() if tail.graph else ()))
        own += sum(math.prod(tensors[made.filter].shape) for made in tail.sums) + 2 * tail.largest * batch
        values = {name: 2 * math.prod(groups.sizes.shape(graph.value(name))) * batch for name in tail.reads}
        values.update((made.name, 2 * abs(math.prod(made.shape)) * batch) for made in tail.sums)
        more = 4 * (own + sum(size for name, size in values.items() if name not in known))
        if rounds[-1] and spent + more > _MOST_BYTES:
            rounds.append([])
            spent, known, more = 0, set(), 4 * (own + sum(values.values()))
        rounds[-1].append(tail)
        spent += more
        known.update(values)
    return rounds
