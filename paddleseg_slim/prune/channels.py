"""Channel groups: which channels of a model must be removed together, and why the others cannot be removed.

A *channel* of a group is everything that lives or dies as one: a filter, its BatchNorm numbers, the slices of all
filters that read it, and the same in every layer that is tied to it by additions, grouped or depthwise convolutions,
reshapes. A *group* holds the channels with one footprint: the same axes of the same parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy import sparse

from paddleseg_slim.graph import GraphLayer, row
from paddleseg_slim.graph.ir import Graph, Node, Value, flatten, slot_values
from paddleseg_slim.graph.shapes import ShapeRun, infer_shapes, sample_shapes
from paddleseg_slim.prune import rules
from paddleseg_slim.prune.budget import WidthCost
from paddleseg_slim.prune.walk import Walk

__all__ = ["ChannelGroups", "Group", "LayerReport", "Member", "find_groups", "rules"]


@dataclass(frozen=True, eq=False)
class Member:
    """An axis of a parameter that holds channels of a group.

    Attributes:
        parameter: structured name.
        axis: of that parameter.
        channels: int64, for each position of the axis the channel of the group that stands there, -1 for none.
        writes: a layer makes the channels here (a filter's output axis).
    """

    parameter: str
    axis: int
    channels: np.ndarray
    writes: bool

    def positions(self, keep: np.ndarray) -> np.ndarray:
        """Which positions stay (bool), given which channels stay (bool ``[width]``); those of no channel stay."""
        return np.where(self.channels >= 0, keep[np.maximum(self.channels, 0)], True)


@dataclass(frozen=True, eq=False)
class Group:
    """Channels with one footprint.

    Attributes:
        name: name of the first parameter that makes them, without ``.weight``.
        components: the component of ids of each channel, int64 ``[width]``.
        members: every parameter axis they stand on.
        layers: names of the nodes that make them.
    """

    name: str
    components: np.ndarray
    members: tuple[Member, ...]
    layers: tuple[str, ...]

    @property
    def width(self) -> int:
        """How many channels there are."""
        return len(self.components)

    def step(self, align: int) -> int:
        """Channels are removed or kept in multiples of this so that every layer's width is a multiple of ``align``."""
        steps = []
        for member in self.members:
            if member.writes:
                each = max(int((member.channels >= 0).sum()) // self.width, 1)
                steps.append(align // math.gcd(align, each))
        return math.lcm(*steps) if steps else align

    @property
    def shares_an_axis(self) -> bool:
        """Whether a layer that makes these channels makes others too."""
        return any(member.writes and (member.channels < 0).any() for member in self.members)


@dataclass(frozen=True)
class LayerReport:
    """What can be pruned of one layer's output channels.

    Attributes:
        node: name of the layer; ``op`` its op; ``parameter`` its weight.
        channels: how many it makes; ``prunable`` how many of them are in a group.
        groups: names of these groups.
        reason: why the others stay; "" when there are none.
        macs: multiply-accumulates at the sample size.
    """

    node: str
    op: str
    parameter: str
    channels: int
    prunable: int
    groups: tuple[str, ...]
    reason: str
    macs: int


class ChannelGroups:
    """The groups of one model.

    Attributes:
        groups: in the order in which the model makes the channels.
        components: component of every id of the walk.
        pinned: component -> reason.
        unknown: op -> nodes without a channel rule that touch channels.
        pick: the ``outputs`` given to `find_groups`.
        needed: nodes of the eval graph whose costs count: an auxiliary head is not exported.
    """

    def __init__(
        self,
        model: GraphLayer,
        walk: Walk,
        size: int | tuple[int, int],
        pair: ShapeRun,
        outputs: Callable[[Any], Any] | None = None,
    ) -> None:
        self.model = model
        self.pick = outputs
        graph = model.eval_graph
        counted = flatten(graph.outputs if outputs is None else outputs(graph.outputs))
        self.needed = graph.ancestors([value for value in counted if isinstance(value, Value)])
        self.walk = walk
        self.size = size
        self._pair = pair
        self.components = walk.settle()
        self.pinned = walk.ids.pinned(self.components)
        self.unknown = walk.unknown
        self.groups = self._collect()
        self.by_name = {group.name: group for group in self.groups}

    def _collect(self) -> list[Group]:
        count = int(self.components.max()) + 1 if len(self.components) else 0
        signature = np.zeros(count, dtype=np.uint64)
        made = np.full(count, np.iinfo(np.int64).max)
        random = np.random.default_rng(0)
        for ids in self.walk.axes.values():
            present = np.unique(self.components[ids])
            signature[present] += random.integers(0, 2**63, dtype=np.uint64)
        place, starts = 0, []
        for key in self.walk.writes:
            starts.append(place)
            present, first = np.unique(self.components[self.walk.axes[key]], return_index=True)
            made[present] = np.minimum(made[present], place + first)
            place += len(self.walk.axes[key])
        made[list(self.pinned)] = np.iinfo(np.int64).max
        candidates = np.flatnonzero(made < np.iinfo(np.int64).max)
        candidates = candidates[np.argsort(made[candidates], kind="stable")]
        _, first, inverse = np.unique(signature[candidates], return_index=True, return_inverse=True)
        sets = [candidates[inverse == s] for s in np.argsort(first, kind="stable")]
        alone = np.array([s[0] for s in sets if len(s) == 1], dtype=np.int64)
        alone = alone[~np.isin(alone, self._anchors(alone, count))]
        layer = np.searchsorted(starts, made[alone], side="right")  # a footprint of their own each: by first layer
        sets = [s for s in sets if len(s) > 1] + [alone[layer == one] for one in np.unique(layer)]
        return self._named(sorted((s for s in sets if len(s) > 1), key=lambda s: int(made[s[0]])), count)

    def _anchors(self, alone: np.ndarray, count: int) -> list[int]:
        """Channels that stay because an axis holds nothing but channels with footprints of their own."""
        loose = np.zeros(count, dtype=bool)
        loose[alone] = True
        anchors: list[int] = []
        for ids in self.walk.axes.values():
            components = self.components[ids]
            if len(components) > 1 and loose[components].all():
                anchors.append(int(components[0]))
                loose[components[0]] = False
                self.pinned[int(components[0])] = "one channel of a layer with entangled channels has to stay"
        return anchors

    def _named(self, sets: list[np.ndarray], count: int) -> list[Group]:
        owner, channel = np.full(count, -1), np.full(count, -1)
        for number, components in enumerate(sets):
            owner[components], channel[components] = number, np.arange(len(components))
        members: list[list[Member]] = [[] for _ in sets]
        layers: list[list[str]] = [[] for _ in sets]
        for (name, axis), ids in self.walk.axes.items():
            mine = owner[self.components[ids]]
            for number in np.unique(mine[mine >= 0]):
                channels = np.where(mine == number, channel[self.components[ids]], -1)
                writer = self.walk.writes.get((name, axis))
                members[number].append(Member(name, axis, channels, writer is not None))
                if writer is not None:
                    layers[number].append(writer)
        groups: list[Group] = []
        taken: dict[str, int] = {}
        for number, components in enumerate(sets):
            name = next(m.parameter for m in members[number] if m.writes).removesuffix(".weight")
            taken[name] = taken.get(name, 0) + 1
            name = name if taken[name] == 1 else f"{name}#{taken[name]}"
            groups.append(Group(name, components, tuple(members[number]), tuple(layers[number])))
        return groups

    def keep(self, kept: dict[str, np.ndarray]) -> np.ndarray:
        """Which components stay (bool) when of the named groups only these channels (indices) do."""
        alive = np.ones(int(self.components.max()) + 1 if len(self.components) else 0, dtype=bool)
        for name, channels in kept.items():
            group = self.by_name[name]
            alive[group.components] = False
            alive[group.components[channels]] = True
        return alive

    @cached_property
    def sizes(self) -> ShapeRun:
        """Shapes of the eval graph at the size given."""
        return _sizes(self.model.eval_graph, self.size, batch=1)

    @cached_property
    def sample_rows(self) -> frozenset[str]:
        """Names of the values of the eval graph whose first axis counts the samples."""
        values = (v for node in self.model.eval_graph.nodes for v in node.output_values())
        return frozenset(v.name for v in values if self.sizes.shape(v)[:1] == (1,) and self._pair.shape(v)[:1] == (2,))

    @cached_property
    def _owner(self) -> np.ndarray:
        owner = np.full(int(self.components.max()) + 1 if len(self.components) else 0, -1)
        for number, group in enumerate(self.groups):
            owner[group.components] = number
        return owner

    def owner_of(self, components: np.ndarray) -> np.ndarray:
        """Number of the group that each component is a channel of, -1 for none (and for component -1)."""
        return np.where(components >= 0, self._owner[components], -1)

    def _widths_on(self, ids: np.ndarray) -> tuple[np.ndarray, float]:
        """Positions in an id array as a function of the widths: positions for each channel kept, and fixed ones."""
        owner = self._owner[self.components[ids.reshape(-1)]]
        counts = np.bincount(owner[owner >= 0], minlength=len(self.groups)).astype(np.float64)
        return counts / np.array([g.width for g in self.groups], dtype=np.float64), float((owner < 0).sum())

    def _polynomial(self, terms: list[tuple[float, list[np.ndarray]]]) -> WidthCost:
        """Sum of ``factor x product of the positions that stay in each id array``."""
        n = len(self.groups)
        constant, linear = 0.0, np.zeros(n)
        rows: list[np.ndarray] = []
        columns: list[np.ndarray] = []
        data: list[np.ndarray] = []
        for factor, arrays in terms:
            for extra in arrays[2:]:
                factor *= extra.size
            (a, p), (b, q) = ([self._widths_on(x) for x in arrays[:2]] + [(np.zeros(n), 1.0)] * 2)[:2]
            constant += factor * p * q
            linear += factor * (q * a + p * b)
            left, right = np.flatnonzero(a), np.flatnonzero(b)
            block = factor * np.outer(a[left], b[right]).reshape(-1)
            i, j = np.repeat(left, len(right)), np.tile(right, len(left))
            rows += [i, j]
            columns += [j, i]
            data += [block, block]
        empty = [np.zeros(0)]
        places = np.concatenate(rows or empty), np.concatenate(columns or empty)
        quadratic = sparse.coo_matrix((np.concatenate(data or empty), places), shape=(n, n))
        return WidthCost(constant, linear, quadratic)

    def node_macs(self, node: Node) -> int:
        """Multiply-accumulates of a node of the eval graph at the size given."""
        rule = row(node.op)
        return int(rule.macs(node, self.sizes.shape)) if rule is not None and rule.macs is not None else 0

    @cached_property
    def macs(self) -> WidthCost:
        """Multiply-accumulates as a polynomial of the groups' widths, for one input of the size given."""
        terms = []
        for node in self.needed:
            macs = self.node_macs(node)
            if macs:
                arrays = self.walk.factors.get(("eval", node.name), [])
                terms.append((macs / math.prod(a.size for a in arrays), arrays))
        return self._polynomial(terms)

    @cached_property
    def parameters(self) -> WidthCost:
        """Number of stored weights (statistics included) as a polynomial of the groups' widths."""
        terms = []
        stored = self.model.eval_graph.parameters
        read = dict.fromkeys(v.name for node in self.needed for v in node.input_values())
        for name in (name for name in read if name in stored):
            shape = stored[name].shape
            arrays = [self.walk.axes[name, a] for a in range(len(shape)) if (name, a) in self.walk.axes]
            terms.append((math.prod(shape) / math.prod(a.size for a in arrays), arrays))
        return self._polynomial(terms)

    @cached_property
    def batch_norm_scales(self) -> frozenset[str]:
        """Names of the parameters that are the scale of a BatchNorm."""
        nodes = (node for node in self.model.eval_graph.nodes if node.op == "batch_norm")
        return frozenset(v.name for node in nodes for v in slot_values(node.inputs.get("scale")))

    @property
    def widths(self) -> np.ndarray:
        """Untouched widths, int64 ``[groups]``."""
        return np.array([g.width for g in self.groups], dtype=np.int64)

    def layers(self) -> list[LayerReport]:
        """Every layer of the eval graph that makes channels, in order: what can be pruned of it or why not."""
        report = []
        for node in self.model.eval_graph.nodes:
            weight = next((v.name for v in node.input_values() if (v.name, 0) in self._made_by(node.name)), None)
            axis = 0
            if weight is None:
                weight = next((v.name for v in node.input_values() if (v.name, 1) in self._made_by(node.name)), None)
                axis = 1
            if weight is None:
                continue
            components = self.components[self.walk.axes[weight, axis]]
            owner = self._owner[components]
            alone = "a channel coupled like no other stays" if len(components) > 1 else "it makes a single channel"
            left = sorted({self.pinned.get(int(c), alone) for c in components[owner < 0]})
            names = tuple(self.groups[g].name for g in np.unique(owner[owner >= 0]))
            report.append(
                LayerReport(
                    node.name, node.op, weight, len(components), int((owner >= 0).sum()), names, "; ".join(left),
                    self.node_macs(node),
                )
            )  # fmt: skip
        return report

    @cached_property
    def _writes_by_node(self) -> dict[str, set[tuple[str, int]]]:
        table: dict[str, set[tuple[str, int]]] = {}
        for key, node in self.walk.writes.items():
            table.setdefault(node, set()).add(key)
        return table

    def _made_by(self, node: str) -> set[tuple[str, int]]:
        return self._writes_by_node.get(node, set())

    def prunable_share(self) -> float:
        """Share of the convolutions' multiply-accumulates in convolutions some of whose channels can be removed."""
        layers = [r for r in self.layers() if "conv" in r.op]
        total = sum(r.macs for r in layers)
        return sum(r.macs for r in layers if r.prunable) / total if total else 0.0


def _sizes(graph: Graph, size: int | tuple[int, int], batch: int) -> ShapeRun:
    side = size if isinstance(size, int) else size[0]
    shapes = sample_shapes(graph.inputs, side, batch)
    if not isinstance(size, int):
        shapes = [
            (*s[:-2], *(w if d == -1 else d for w, d in zip(size, v.shape[-2:]))) if len(s) == 4 else s
            for s, v in zip(shapes, graph.inputs)
        ]
    return infer_shapes(graph, shapes)


def find_groups(
    model: GraphLayer, size: int | tuple[int, int] = 256, outputs: Callable[[Any], Any] | None = None
) -> ChannelGroups:
    """Find the channel groups of ``model``, over its train and its eval graph at once.

    Args:
        model: any GraphLayer.
        size: height and width at which shapes are looked at and multiply-accumulates counted, where they are dynamic.
        outputs: picks the outputs whose costs count from the model's outputs; None: all.
    """
    walk = Walk()
    graphs = {"eval": model.eval_graph, "train": model.train_graph}
    sizes = {key: _sizes(graph, size, batch=2) for key, graph in graphs.items()}
    for key, graph in graphs.items():
        walk.run(key, graph, sizes[key])
    return ChannelGroups(model, walk, size, sizes["eval"], outputs)
