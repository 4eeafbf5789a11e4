"""The graph: nodes (ops) and values (tensors), in topological order, plain Python without a handle of Paddle.

A node's inputs and attributes are keyed by the argument names of the op (``x``, ``filter``, ``y``; see Paddle's op
definitions). An argument that Paddle wants as integers or a number (``axis``, ``shape``, ``p``) is in ``attrs`` when it
is a constant and in ``inputs`` when the model computes it from shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Union


@dataclass(eq=False)
class Value:
    """A tensor in a graph.

    Attributes:
        name: unique in its graph: the name of its node, with ``:output`` for a further output.
        dtype: ``"float32"``, ``"int64"``, ...
        shape: one size an axis, -1 for a dynamic one.
        producer: the node that makes it; None for an input or a parameter.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    producer: Node | None = None

    def __repr__(self) -> str:
        return f"%{self.name}: {self.dtype}{list(self.shape)}"


Slot = Union[Value, list[Value], None]
"""What stands at one argument: a value, a list of values (``concat``), or None for an optional one left out."""


def slot_values(slot: Slot) -> list[Value]:
    """The values at one argument, as a list."""
    if slot is None:
        return []
    return list(slot) if isinstance(slot, list) else [slot]


@dataclass(eq=False)
class Node:
    """One op.

    Attributes:
        name: stable and readable: the layer path (``backbone.layer1.0.conv``), or ``path/op`` for a functional op.
        op: Paddle's name of it without dialect (``conv2d``), or one of our own (``slim.gate``).
        inputs: argument name -> value, list of values or None.
        attrs: argument name -> plain Python value.
        outputs: output name -> value or list of values; what the op computes only for its gradient is left out.
        layer: path of the layer that called the op, "" for the model itself.
    """

    name: str
    op: str
    inputs: dict[str, Slot]
    attrs: dict[str, Any]
    outputs: dict[str, Value | list[Value]] = field(default_factory=dict)
    layer: str = ""

    @property
    def out(self) -> Value:
        """The first output."""
        first = next(iter(self.outputs.values()))
        return first[0] if isinstance(first, list) else first

    def input_values(self) -> list[Value]:
        """All input values, lists unrolled, in argument order."""
        return [value for slot in self.inputs.values() for value in slot_values(slot)]

    def output_values(self) -> list[Value]:
        """All output values, lists unrolled."""
        return [value for slot in self.outputs.values() for value in slot_values(slot)]

    def value(self, argument: str) -> Value:
        """The single value at ``argument``.

        Raises:
            KeyError: there is none, or a list.
        """
        slot = self.inputs.get(argument)
        if not isinstance(slot, Value):
            raise KeyError(f"node {self.name!r} ({self.op}) has no single value at {argument!r}")
        return slot

    def replace_input(self, old: Value, new: Value) -> None:
        """Read ``new`` wherever ``old`` was read. Call `Graph.touch` after it."""
        for argument, slot in self.inputs.items():
            if isinstance(slot, list):
                self.inputs[argument] = [new if value is old else value for value in slot]
            elif slot is old:
                self.inputs[argument] = new

    def __repr__(self) -> str:
        return f"{self.name} = {self.op}({', '.join(value.name for value in self.input_values())})"


def flatten(structure: Any) -> list[Any]:
    """Leaves of nested lists, tuples and dicts, in order (dicts by insertion)."""
    if isinstance(structure, dict):
        return [leaf for item in structure.values() for leaf in flatten(item)]
    if isinstance(structure, (list, tuple)):
        return [leaf for item in structure for leaf in flatten(item)]
    return [structure]


def map_structure(function: Callable[[Any], Any], structure: Any) -> Any:
    """The same nested structure with ``function`` applied to every leaf."""
    if isinstance(structure, dict):
        return {key: map_structure(function, item) for key, item in structure.items()}
    if isinstance(structure, (list, tuple)):
        return type(structure)(map_structure(function, item) for item in structure)
    return function(structure)


class InvalidGraph(ValueError):
    """An edit left a graph that cannot run; always a fault of the pass that edited."""


class Graph:
    """Nodes in topological order with their inputs, outputs and parameters.

    Attributes:
        nodes: in an order in which they can run.
        inputs: the values that a caller feeds.
        outputs: nested list / tuple / dict with values (or plain constants such as None) as leaves.
        parameters: name -> value of every stored tensor that is read: weights, statistics, fixed tensors.
        guards: (value computed from shapes, what it was when captured): a graph is right only where they hold.
        updates: name of a stored tensor -> the value it gets after a run (a counter, a moving average that the model
            keeps itself; batch normalisation moves its statistics in its op).
    """

    def __init__(self, inputs: list[Value], outputs: Any = None) -> None:
        self.nodes: list[Node] = []
        self.inputs = inputs
        self.outputs = outputs
        self.parameters: dict[str, Value] = {}
        self.guards: list[tuple[Value, Any]] = []
        self.updates: dict[str, Value] = {}
        self.version = 0
        self._index: tuple[int, dict[Value, list[Node]], dict[str, Node], dict[str, Value]] | None = None

    def touch(self) -> None:
        """Say that the graph was edited: what was derived from it is derived again when needed."""
        self.version += 1

    def _indexed(self) -> tuple[int, dict[Value, list[Node]], dict[str, Node], dict[str, Value]]:
        if self._index is None or self._index[0] != self.version:
            users: dict[Value, list[Node]] = {}
            for node in self.nodes:
                for value in dict.fromkeys(node.input_values()):
                    users.setdefault(value, []).append(node)
            nodes = {node.name: node for node in self.nodes}
            self._index = (self.version, users, nodes, {value.name: value for value in self.values()})
        return self._index

    def users(self, value: Value) -> list[Node]:
        """Nodes that read ``value``, in order (the outputs of the graph are not among them; see `is_output`)."""
        return list(self._indexed()[1].get(value, ()))

    def node(self, name: str) -> Node:
        """The node called ``name`` (KeyError)."""
        return self._indexed()[2][name]

    def value(self, name: str) -> Value:
        """The value called ``name`` (KeyError)."""
        return self._indexed()[3][name]

    def has_node(self, name: str) -> bool:
        """Whether a node has this name."""
        return name in self._indexed()[2]

    def has_value(self, name: str) -> bool:
        """Whether a value has this name."""
        return name in self._indexed()[3]

    def values(self) -> Iterator[Value]:
        """Every value once: inputs, parameters, then the outputs of the nodes."""
        yield from self.inputs
        yield from self.parameters.values()
        for node in self.nodes:
            yield from node.output_values()

    def output_values(self) -> list[Value]:
        """The output values in the order of the flattened output structure."""
        return [leaf for leaf in flatten(self.outputs) if isinstance(leaf, Value)]

    def kept_values(self) -> list[Value]:
        """Everything that a run must make: outputs, updates of stored tensors, and what the guards compare."""
        return [*self.output_values(), *self.updates.values(), *(value for value, _ in self.guards)]

    def is_output(self, value: Value) -> bool:
        """Whether ``value`` is an output of the graph."""
        return any(leaf is value for leaf in flatten(self.outputs))

    def parameter_name(self, value: Value) -> str | None:
        """The name of the parameter that ``value`` is; None when it is none."""
        return value.name if self.parameters.get(value.name) is value else None

    def check(self) -> None:
        """Check the invariants.

        Raises:
            InvalidGraph: a name is used twice, a value is read before it is made or made by nobody, or a link between
                a value and its node is broken.
        """
        known: set[Value] = set(self.inputs) | set(self.parameters.values())
        names: set[str] = set()
        for name, value in self.parameters.items():
            if value.name != name or value.producer is not None:
                raise InvalidGraph(f"parameter {name!r} is held by {value!r} made by {value.producer!r}")
        for node in self.nodes:
            if node.name in names:
                raise InvalidGraph(f"two nodes are called {node.name!r}")
            names.add(node.name)
            for value in node.input_values():
                if value not in known:
                    raise InvalidGraph(f"node {node.name!r} reads {value!r}, which nothing before it makes")
            for value in node.output_values():
                if value.producer is not node:
                    raise InvalidGraph(f"{value!r} is an output of {node.name!r} but names {value.producer!r}")
                known.add(value)
        value_names = [value.name for value in known]
        if len(set(value_names)) != len(value_names):
            raise InvalidGraph("two values have one name")
        for value in self.kept_values():
            if value not in known:
                raise InvalidGraph(f"output {value!r} is not made by the graph")

    def fresh_name(self, wanted: str) -> str:
        """``wanted``, or with a number behind it when a node or value has that name."""
        name, count = wanted, 0
        while self.has_node(name) or self.has_value(name):
            count += 1
            name = f"{wanted}_{count}"
        return name

    def ancestors(self, values: Iterable[Value], stop: Iterable[Value] = ()) -> list[Node]:
        """Nodes needed to make ``values`` when the values in ``stop`` are given, in order."""
        given = set(stop)
        wanted = {value for value in values if value not in given}
        needed: list[Node] = []
        for node in reversed(self.nodes):
            if any(value in wanted for value in node.output_values()):
                needed.append(node)
                wanted.update(value for value in node.input_values() if value not in given)
        return needed[::-1]

    def dependents(self, values: Iterable[Value]) -> list[Node]:
        """Nodes whose result depends on one of ``values``, in order."""
        reached = set(values)
        nodes: list[Node] = []
        for node in self.nodes:
            if any(value in reached for value in node.input_values()):
                nodes.append(node)
                reached.update(node.output_values())
        return nodes

    def clone(self) -> Graph:
        """A copy that shares nothing with this graph."""
        from paddleseg_slim.graph.serial import graph_from_dict, graph_to_dict

        return graph_from_dict(graph_to_dict(self))

    def __deepcopy__(self, memo: dict[int, Any]) -> Graph:
        return self.clone()

    def __reduce__(self) -> tuple[Any, ...]:
        from paddleseg_slim.graph.serial import graph_from_dict, graph_to_dict

        return graph_from_dict, (graph_to_dict(self),)

    def __repr__(self) -> str:
        return f"Graph({len(self.nodes)} nodes, {len(self.parameters)} parameters, inputs {self.inputs})"


def unique_name(wanted: str, taken: set[str], mark: str = "_") -> str:
    """``wanted``, or with ``mark`` and a number behind it when it is among ``taken``, to which the name is added."""
    name, count = wanted, 0
    while name in taken:
        count += 1
        name = f"{wanted}{mark}{count}"
    taken.add(name)
    return name
