"""Gates: run a model as if channels were removed, without removing them.

A gate stands at the *inputs of the consumers* of a channel, so it is exact whatever activation came before (zeroing
the filter and its BatchNorm is not: sigmoid(0) is not 0). Where a consumer compares or averages channels, what is
gated is made to look absent: a mean is over the others, a maximum or softmax sees a huge negative number, LayerNorm
and GroupNorm take statistics of the others. A gate is an extra input of the graph and one plain op (``multiply`` or
``add``), so every engine can run it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from paddleseg_slim.graph.ir import Graph, Node, Value, map_structure, unique_name
from paddleseg_slim.prune.channels import ChannelGroups
from paddleseg_slim.prune.ids import Factor
from paddleseg_slim.prune.walk import Read

_HUGE = 1e30
"""Stands for infinity: added to what must lose a maximum; infinity itself would turn into NaN later."""


@dataclass(frozen=True, eq=False)
class Gate:
    """One extra input of a gated graph.

    Attributes:
        value: the input.
        components: the component of the id at each element, in the shape of the input.
        kind: see `paddleseg_slim.prune.walk.Read`.
        groups: names of the groups whose channels are on it.
        per_sample: it may be fed with one row a sample: its first axis stands at the samples' axis.
    """

    value: Value
    components: np.ndarray
    kind: str
    groups: frozenset[str]
    per_sample: bool = False

    def array(self, alive: np.ndarray) -> np.ndarray:
        """What to feed, float32, when these components stay (`ChannelGroups.keep`)."""
        stays = np.where(self.components >= 0, alive[self.components], False).astype(np.float32)
        if self.kind == "lowest":
            return (stays - 1.0) * np.float32(_HUGE)
        if self.kind == "highest":
            return (1.0 - stays) * np.float32(_HUGE)
        if self.kind == "mean":
            return stays * np.float32(stays.size / max(float(stays.sum()), 1.0))
        if self.kind in ("layer_norm", "group_norm"):
            axis = 1 if self.kind == "group_norm" else None
            return stays / np.maximum(stays.sum(axis=axis, keepdims=True), 1.0)
        return stays


@dataclass(frozen=True, eq=False)
class GatedGraph:
    """A graph with gates.

    Attributes:
        graph: its inputs are those it had before, then the gates.
        gates: in the order of the extra inputs.
        masks: (name of an input of the original, gate): by what that input is to be multiplied before it is fed.
    """

    graph: Graph
    gates: tuple[Gate, ...]
    masks: tuple[tuple[str, Gate], ...] = ()

    def feeds(self, alive: np.ndarray, gates: Iterable[Gate] | None = None) -> dict[str, np.ndarray]:
        """Arrays by input name for all gates, or for the given ones."""
        return {gate.value.name: gate.array(alive) for gate in (self.gates if gates is None else gates)}

    def of(self, group: str) -> list[Gate]:
        """The gates on which channels of ``group`` stand."""
        return [gate for gate in self.gates if group in gate.groups]


def _mask_shape(factor: Factor, rank: int) -> tuple[int, ...]:
    return tuple(factor.ids.shape[factor.axes.index(a)] if a in factor.axes else 1 for a in range(rank))


class _Builder:
    """Makes nodes in front of other nodes of a graph; `finish` puts them in."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._names = {value.name for value in graph.values()} | {node.name for node in graph.nodes}
        self._before: dict[Node, list[Node]] = {}
        self._replaced: dict[Node, Value] = {}

    def fresh_name(self, wanted: str) -> str:
        """``wanted``, or with a number behind it when it is taken."""
        return unique_name(wanted, self._names)

    def make(self, before: Node, op: str, inputs: dict[str, Value], like: Value, **attrs: object) -> Value:
        """The result of a new node in front of ``before``."""
        node = Node(self.fresh_name(f"{before.name}/gate_{op}"), op, dict(inputs), attrs)
        node.outputs = {"out": Value(node.name, like.dtype, like.shape, node)}
        self._before.setdefault(before, []).append(node)
        return node.out

    def replace(self, node: Node, value: Value) -> None:
        """Let everybody who reads ``node`` read ``value``."""
        for user in self.graph.users(node.out):
            user.replace_input(node.out, value)
        self.graph.outputs = map_structure(lambda leaf: value if leaf is node.out else leaf, self.graph.outputs)
        self._replaced[node] = value

    def finish(self) -> None:
        """Put the new nodes in their places and take the replaced ones out."""
        nodes: list[Node] = []
        for node in self.graph.nodes:
            nodes += self._before.get(node, [])
            nodes += [] if node in self._replaced else [node]
        self.graph.nodes = nodes
        self.graph.touch()


def _gated_norm(build: _Builder, node: Node, gate: Value, read: Read) -> Value:
    """LayerNorm or GroupNorm as plain ops whose averages over channels are weighted by ``gate``."""
    make, x = partial(build.make, node), node.value("x")
    grouped = node.op == "group_norm"
    axes = list(range(2 if grouped else int(node.attrs["begin_norm_axis"]), len(x.shape)))  # type: ignore[call-overload]

    def average(value: Value) -> Value:
        if grouped:
            place = make("mean", {"x": value}, x, axis=axes, keepdim=True)
            return make("conv2d", {"input": place, "filter": gate}, x, **_POINTWISE)
        weighted = make("multiply", {"x": value, "y": gate}, x)
        return make("sum", {"x": weighted}, x, axis=axes, dtype="undefined", keepdim=True)

    centred = make("subtract", {"x": x, "y": average(x)}, x)
    variance = average(make("square", {"x": centred}, x))
    shifted = make("scale", {"x": variance}, x, scale=1.0, bias=float(node.attrs["epsilon"]), bias_after_scale=True)  # type: ignore[arg-type]
    result = make("multiply", {"x": centred, "y": make("rsqrt", {"x": shifted}, x)}, x)
    for name, op in (("scale", "multiply"), ("bias", "add")):
        value = node.inputs.get(name)
        if isinstance(value, Value):
            if grouped or len(axes) > 1:
                value = make("reshape", {"x": value}, value, shape=list(_mask_shape(read.factor, len(x.shape))))
            result = make(op, {"x": result, "y": value}, x)
    return result


_POINTWISE = {
    "strides": [1, 1], "paddings": [0, 0], "padding_algorithm": "EXPLICIT", "dilations": [1, 1], "groups": 1,
    "data_format": "NCHW",
}  # fmt: skip
_OPS = {"zero": "multiply", "mean": "multiply", "lowest": "add", "highest": "add"}


def _norm_matrix(ids: np.ndarray, parts: int) -> np.ndarray:
    """For GroupNorm: the ids that each channel averages over, ``[C, C, 1, 1]``, -1 outside its group."""
    size = len(ids) // parts
    matrix = np.full((len(ids), len(ids)), -1, dtype=np.int64)
    for part in range(parts):
        block = slice(part * size, (part + 1) * size)
        matrix[block, block] = ids[block]
    return matrix[:, :, None, None]


def _gate(groups: ChannelGroups, build: _Builder, node: Node, read: Read, x: Value) -> Gate:
    rank = len(x.shape)
    ids = read.factor.ids.reshape(_mask_shape(read.factor, rank))
    components = groups.components[ids]
    if read.kind == "group_norm":
        components = _norm_matrix(components.reshape(-1), int(node.attrs["groups"]))
    value = Value(f"gate/{read.node}/{read.argument}", "float32", tuple(components.shape))
    owners = frozenset(groups.groups[g].name for g in np.unique(groups.owner_of(components)) if g >= 0)
    first = groups.model.eval_graph.inputs[0]
    same = x.shape[:1] == first.shape[:1] == (-1,) and x.name in groups.sample_rows
    return Gate(value, components, read.kind, owners, same and components.shape[:1] == (1,))


def insert_gates(
    groups: ChannelGroups,
    names: Iterable[str] | None = None,
    key: str = "eval",
    part: Graph | None = None,
    free: Mapping[str, Collection[str]] | None = None,
    mask_inputs: bool = False,
) -> GatedGraph:
    """One graph of the model with gates for the named groups, or for all.

    Args:
        groups: of the model.
        names: of the groups.
        key: ``eval`` or ``train``.
        part: gate this part of the graph (`graph.part.extract`) in place, instead of a copy of all of it.
        free: node -> groups that it needs no gate for.
        mask_inputs: inputs of the graph that a gate would multiply are left to the caller: `GatedGraph.masks`. What
            else reads such an input then sees zeros as well, in channels that nobody reads ungated.
    """
    whole = groups.model.eval_graph if key == "eval" else groups.model.train_graph
    graph = whole.clone() if part is None else part
    wanted = None if names is None else set(names)
    build, nodes = _Builder(graph), {node.name: node for node in graph.nodes}
    given = {value.name for value in graph.inputs} if mask_inputs else set()
    gates: list[Gate] = []
    masks: list[tuple[str, Gate]] = []
    made: dict[tuple[Value, str, bytes], Value] = {}
    for read in groups.walk.reads:
        node = nodes.get(read.node) if read.graph == key else None
        if node is None:
            continue
        x = node.value(read.argument)
        gate = _gate(groups, build, node, read, x)
        if not gate.groups or (wanted is not None and not gate.groups & wanted):
            continue
        if free and gate.groups <= set(free.get(read.node, ())):
            continue
        if read.kind == "zero" and x.name in given:
            if not any(name == x.name and np.array_equal(mask.components, gate.components) for name, mask in masks):
                masks.append((x.name, gate))
            continue
        norm = read.kind not in _OPS
        same = (x, read.kind if not norm else read.node, gate.components.tobytes())
        if same not in made:
            gate.value.name = build.fresh_name(gate.value.name)
            gates.append(gate)
            graph.inputs.append(gate.value)
            if norm:
                build.replace(node, _gated_norm(build, node, gate.value, read))
                continue
            made[same] = build.make(node, _OPS[read.kind], {"x": x, "y": gate.value}, x)
        node.inputs[read.argument] = made[same]
    build.finish()
    graph.check()
    return GatedGraph(graph, tuple(gates), tuple(masks))
