"""Where quantizers stand: decided on the eval graph from a target profile, before any range is known.

A quantizer is put on every value that an integer op reads, and on the output of ops that need it there; a convolution
with its bias and ReLU counts as one op. Values that only move elements (concat, reshape, max pooling) share one scale
with what they move, so the engine passes integers on.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from paddleseg_slim.errors import UserError, nearest
from paddleseg_slim.graph import Graph, GraphLayer, Node, Value, cost, data_argument
from paddleseg_slim.graph.host import host_nodes
from paddleseg_slim.quant.node import OP, Grid
from paddleseg_slim.quant.profiles import Profile

WEIGHT_ARGUMENT = {
    "conv2d": "filter", "depthwise_conv2d": "filter", "conv2d_transpose": "filter",
    "depthwise_conv2d_transpose": "filter", "matmul": "y", "addmm": "y",
}  # fmt: skip

FUSED_ACTIVATIONS = frozenset({"relu", "relu6"})

LEAST_SHARE = 2e-4
"""Layers with a smaller share of the MACs (on pooled features) stay float: converting costs more than it gains."""


@dataclass(frozen=True)
class Site:
    """One quantizer to insert.

    Attributes:
        value: name of the value that it rounds, a parameter for a weight.
        kind: ``weight`` or ``activation``.
        grid: integers that it rounds to.
        users: names of the nodes that read the rounded value; None: all, and the outputs of the graph.
        group: sites of one group have one scale; the name of their first value.
    """

    value: str
    kind: str
    grid: Grid
    users: tuple[str, ...] | None
    group: str

    @property
    def name(self) -> str:
        """Name of the quantizer node."""
        return f"{self.value}/fake_quant"


@dataclass(frozen=True)
class Placement:
    """The decision for one model.

    Attributes:
        profile: it was made for.
        sites: quantizers, in the order of the graph.
        layers: names of the nodes with weights that run in integers.
        left: node with weights that stays float -> why.
        macs: MACs by node with weights.
        shape: input shape that they are for.
    """

    profile: Profile
    sites: tuple[Site, ...]
    layers: tuple[str, ...]
    left: dict[str, str]
    macs: dict[str, int] = field(default_factory=dict)
    shape: tuple[int, ...] = ()

    @property
    def macs_share(self) -> float:
        """Share of the MACs of layers with weights that runs in integers."""
        total = sum(self.macs.values())
        return sum(self.macs[name] for name in self.layers) / total if total else 0.0

    @property
    def layer_share(self) -> float:
        """Share of the layers with weights that runs in integers."""
        total = len(self.layers) + len(self.left)
        return len(self.layers) / total if total else 0.0

    def weights(self) -> list[Site]:
        """The sites of weights."""
        return [site for site in self.sites if site.kind == "weight"]

    def activations(self) -> list[Site]:
        """The sites of activations."""
        return [site for site in self.sites if site.kind == "activation"]

    def summary(self) -> str:
        """The decision in one line."""
        return (
            f"{len(self.layers)} of {len(self.layers) + len(self.left)} convolutions and linear layers quantized "
            f"({self.macs_share:.1%} of their MACs) for the target {self.profile.name}"
        )


def weighted_layers(graph: Graph) -> list[Node]:
    """Nodes with a stored weight: convolutions and linear layers."""
    return [
        node for node in graph.nodes if node.op in WEIGHT_ARGUMENT and graph.parameter_name(weight_of(node)) is not None
    ]


def weight_of(node: Node) -> Value:
    """The weight that ``node`` reads, before its quantizer if it has one."""
    value = node.value(WEIGHT_ARGUMENT[node.op])
    if value.producer is not None and value.producer.op == OP:
        return value.producer.value("x")
    return value


def activation_of(node: Node) -> Value:
    """The activation that ``node`` reads."""
    return node.value(data_argument(node.op))


def channel_axis(node: Node) -> int | None:
    """Axis of the output channels in the weight of ``node``; None where no axis is theirs alone."""
    if node.op in ("conv2d", "depthwise_conv2d"):
        return 0
    if node.op in ("conv2d_transpose", "depthwise_conv2d_transpose"):
        weight, groups = weight_of(node), int(node.attrs.get("groups", 1))
        return 1 if groups == 1 else 0 if weight.shape[1] == 1 and weight.shape[0] == groups else None
    rank = len(weight_of(node).shape)
    return rank - 2 if node.attrs.get("transpose_y") else rank - 1


def is_patch(node: Node) -> bool:
    """Whether a convolution takes patches of few channels: an even kernel, a stride of 4 or more, fewer than 64 inputs.

    Such are the spatial reductions of SegFormer's first stage.
    """
    if node.op != "conv2d":
        return False
    _, channels, *kernel = weight_of(node).shape
    return channels < 64 and min(node.attrs["strides"]) >= 4 and all(size % 2 == 0 and size >= 4 for size in kernel)


def fused_output(graph: Graph, node: Node) -> Value:
    """The output of ``node`` with the bias and the activation that engines compute together with it."""
    value = node.out
    for _ in range(2):
        readers = graph.users(value)
        if len(readers) != 1 or graph.is_output(value):
            return value
        reader = readers[0]
        if reader.op == "add" and _from_parameters(graph, reader.value("y")):
            value = reader.out
        elif reader.op in FUSED_ACTIVATIONS:
            return reader.out
        else:
            return value
    return value


def _from_parameters(graph: Graph, value: Value) -> bool:
    while value.producer is not None and value.producer.op == "reshape":
        value = value.producer.value("x")
    return graph.parameter_name(value) is not None


def bias_name(graph: Graph, node: Node) -> str | None:
    """Name of the stored bias that is added to the output of ``node`` and to nothing else."""
    readers = graph.users(node.out)
    if len(readers) != 1 or readers[0].op != "add":
        return None
    value = readers[0].inputs.get("y")
    if isinstance(value, Value) and value.producer is not None and value.producer.op == "reshape":
        value = value.producer.value("x")
    if not isinstance(value, Value) or len(graph.users(value)) != 1:
        return None
    return graph.parameter_name(value)


def plan(
    layer: GraphLayer,
    profile: Profile,
    shape: Sequence[int],
    *,
    skip: Iterable[str] = (),
    keep_float: Collection[str] = (),
    ops: Collection[str] | None = None,
    per_channel: bool = True,
    all_layers: bool = False,
    macs: dict[str, int] | None = None,
) -> Placement:
    """Decide where quantizers stand.

    Args:
        layer: a float model; fold its normalisations first (`graph.fold_batch_norm`).
        profile: what the target wants.
        shape: of the input, for the MACs, ``(1, 3, 512, 512)``.
        skip: regular expressions; a layer whose name matches one somewhere stays float.
        keep_float: names of layers that stay float.
        ops: only layers of these ops are quantized; None: all that the profile has.
        per_channel: a scale for each output channel of a weight; False: one.
        all_layers: quantize logits and tiny layers too.
        macs: of each layer, where they were counted before.

    Raises:
        UserError: it is quantized already, a pattern matches no layer, or nothing is left to quantize.
    """
    graph = layer.eval_graph
    if any(node.op == OP for node in graph.nodes):
        raise UserError("The model is quantized already.", "Start from the float model.")
    nodes = weighted_layers(graph)
    if macs is None:
        counted = {item.name: item.macs for item in cost(graph, [tuple(shape)]).nodes}
        macs = {node.name: counted.get(node.name, 0) for node in nodes}
    left = _left_float(graph, nodes, profile, macs, list(skip), keep_float, ops, all_layers)
    chosen = [node for node in nodes if node.name not in left]
    if not chosen:
        reasons = "; ".join(sorted(set(left.values()))) or "it has no convolution or linear layer"
        raise UserError(f"No layer of the model can be quantized: {reasons}.", "Choose another --target, or skip less.")
    sites = _Sites(graph, profile, chosen, per_channel).sites()
    return Placement(profile, tuple(sites), tuple(node.name for node in chosen), left, macs, tuple(shape))


def _left_float(
    graph: Graph,
    nodes: Sequence[Node],
    profile: Profile,
    macs: dict[str, int],
    skip: Sequence[str],
    keep_float: Collection[str],
    ops: Collection[str] | None,
    all_layers: bool,
) -> dict[str, str]:
    """The layers that stay float, with the reason."""
    names = [node.name for node in nodes]
    unknown = [name for name in keep_float if name not in names]
    if unknown:
        raise UserError(f"No layer is called {unknown[0]!r}.", nearest(unknown[0], names))
    if ops is not None and not any(node.op in ops for node in nodes):
        raise UserError(
            f"No layer of the model is one of: {', '.join(sorted(ops))}.",
            f"It has: {', '.join(sorted({node.op for node in nodes}))}.",
        )
    matched = {name: pattern for pattern in skip for name in _matches(pattern, names)}
    total = sum(macs.values()) or 1
    logits = [] if all_layers else _logits_layers(graph, nodes)
    if sum(macs[name] for name in logits) > profile.logits_share * total:
        logits = []
    left: dict[str, str] = {}
    for node in nodes:
        if node.op not in profile.ops or (ops is not None and node.op not in ops):
            left[node.name] = f"{node.op} is not quantized for {profile.name}"
        elif node.name in matched:
            left[node.name] = f"matches {matched[node.name]!r}"
        elif node.name in keep_float:
            left[node.name] = "was asked to stay float"
        elif node.name in logits:
            left[node.name] = "makes the logits"
        elif profile.float_patches and is_patch(node):
            left[node.name] = "computed wrong by OpenVINO in int8"
        elif not all_layers and macs[node.name] < LEAST_SHARE * total:
            left[node.name] = "too small to gain"
    return left


def _matches(pattern: str, names: Sequence[str]) -> list[str]:
    try:
        found = [name for name in names if re.search(pattern, name)]
    except re.error as error:
        raise UserError(f"{pattern!r} is no regular expression: {error}.", "Escape special characters.") from None
    if not found:
        raise UserError(f"The pattern {pattern!r} matches no layer.", nearest(pattern, names))
    return found


def _logits_layers(graph: Graph, nodes: Sequence[Node]) -> list[str]:
    """Layers behind which no other layer comes."""
    known = set(nodes)
    return [node.name for node in nodes if not any(item in known for item in graph.dependents([node.out]))]


class _Sites:
    """Collects the values on which quantizers stand, with who reads them and which share a scale."""

    def __init__(self, graph: Graph, profile: Profile, chosen: Sequence[Node], per_channel: bool) -> None:
        self.graph, self.profile, self.chosen, self.per_channel = graph, profile, chosen, per_channel
        self._host = {value for node in host_nodes(graph) for value in node.output_values()}
        self._readers: dict[Value, list[Node]] = {}
        self._everywhere: set[Value] = set()
        self._parent: dict[Value, Value] = {}

    def sites(self) -> list[Site]:
        """All sites in the order of the graph."""
        for node in self.chosen:
            self._need(activation_of(node), node)
            if node.op in self.profile.quantized_output:
                self._need(fused_output(self.graph, node), None)
        if self.profile.products_of_activations:
            self._activation_products()
        for node in self.chosen:  # what an integer op makes is read as integers by all
            output = fused_output(self.graph, node)
            if output in self._readers:
                self._everywhere.add(output)
        order = {value: place for place, value in enumerate(self.graph.values())}
        values = sorted(self._readers, key=order.__getitem__)
        names = {root: value.name for value in reversed(values) for root in [self._root(value)]}
        grid = self.profile.activation_grid()
        return [
            *self._weight_sites(),
            *(Site(value.name, "activation", grid, self._users(value), names[self._root(value)]) for value in values),
        ]

    def _weight_sites(self) -> list[Site]:
        found: dict[str, Site] = {}
        for node in self.chosen:
            name = weight_of(node).name
            users = (*(found[name].users or ()), node.name) if name in found else (node.name,)
            axis = channel_axis(node) if self.per_channel else None
            found[name] = Site(name, "weight", self.profile.weight_grid(node.op, axis), users, name)
        return list(found.values())

    def _users(self, value: Value) -> tuple[str, ...] | None:
        if value in self._everywhere:
            return None
        return tuple(dict.fromkeys(node.name for node in self._readers[value]))

    def _activation_products(self) -> None:
        for node in self.graph.nodes:
            if node.op in ("matmul", "bmm"):
                operands = [node.value("x"), node.value("y")]
                if not any(self.graph.parameter_name(value) or value in self._host for value in operands):
                    for value in operands:
                        self._need(value, node)

    def _need(self, value: Value, reader: Node | None) -> None:
        """Put a quantizer on ``value`` for ``reader`` (None: for all), and on what it is moved from or added of."""
        pending = [(value, reader)]
        while pending:
            value, reader = pending.pop()
            known = value in self._readers
            readers = self._readers.setdefault(value, [])
            if reader is None:
                self._everywhere.add(value)
            elif reader not in readers:
                readers.append(reader)
            if not known:
                pending.extend(self._sources(value))

    def _sources(self, value: Value) -> list[tuple[Value, Node]]:
        """Values that must be quantized too because the integers of ``value`` are made of theirs."""
        node = value.producer
        if node is None:
            return []
        if self._moves(node):
            sources = [item for item in node.input_values() if item not in self._host]
            for item in sources:
                self._tie(item, value)
            self._everywhere.add(value)
            return [(item, node) for item in sources]
        added = node.value("x").producer if node.op in FUSED_ACTIVATIONS else node
        if added is None or not self.profile.additions or not self._adds_activations(added):
            return []
        if added is not node and self.graph.users(added.out) != [node]:
            return []
        self._everywhere.add(value)
        return [(item, added) for item in added.input_values()]

    def _moves(self, node: Node) -> bool:
        if node.op == "pool2d":
            return node.attrs.get("pooling_type") == "max" and not node.attrs.get("adaptive")
        return node.op in self.profile.through

    def _adds_activations(self, node: Node) -> bool:
        if node.op != "add":
            return False
        values = node.input_values()
        if any(_from_parameters(self.graph, value) or value in self._host for value in values):
            return False
        return len(values) == 2 and values[0].shape[1:] == values[1].shape[1:]

    def _tie(self, first: Value, second: Value) -> None:
        self._parent[self._root(first)] = self._root(second)

    def _root(self, value: Value) -> Value:
        while self._parent.get(value, value) is not value:
            value = self._parent[value]
        return value
