"""Edits of a graph. Each leaves it valid; after those that change shapes call `refresh_shapes`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from paddleseg_slim.graph.ir import Graph, Node, Slot, Value, map_structure


def insert_node(
    graph: Graph,
    value: Value,
    op: str,
    name: str,
    *,
    argument: str = "x",
    inputs: Mapping[str, Slot] | None = None,
    attrs: Mapping[str, Any] | None = None,
    users: Iterable[Node] | None = None,
) -> Node:
    """Put a new one-output node on the edge from ``value`` to ``users``.

    Args:
        graph: edited in place.
        value: what the new node reads at ``argument``; its output has the same type and shape.
        op: of the new node.
        name: wanted name of the new node (numbered when taken).
        argument: where ``value`` goes.
        inputs: further inputs, made before ``value`` is or parameters of the graph.
        attrs: attributes.
        users: who reads the new value instead; None: every reader, and the graph's outputs and guards.

    Returns:
        the new node; ``node.out`` is its value.
    """
    node = Node(graph.fresh_name(name), op, {argument: value, **(inputs or {})}, dict(attrs or {}))
    node.outputs = {"out": Value(node.name, value.dtype, value.shape, node)}
    readers = None if users is None else list(users)
    replace_value(graph, value, node.out, readers)
    made = [graph.nodes.index(item.producer) for item in node.input_values() if item.producer is not None]
    graph.nodes.insert(max(made, default=-1) + 1, node)
    graph.touch()
    return node


def add_node(
    graph: Graph, after: Node | None, op: str, name: str, inputs: Mapping[str, Slot], attrs: Mapping[str, Any]
) -> Node:
    """Add a one-output node behind ``after`` (None: first), read by nobody yet.

    Its output has the type and shape of its first input until `refresh_shapes` corrects it.
    """
    node = Node(graph.fresh_name(name), op, dict(inputs), dict(attrs), layer=after.layer if after else "")
    sample = node.input_values()[0]
    node.outputs = {"out": Value(node.name, sample.dtype, sample.shape, node)}
    graph.nodes.insert(graph.nodes.index(after) + 1 if after else 0, node)
    graph.touch()
    return node


def replace_value(graph: Graph, old: Value, new: Value, users: Iterable[Node] | None = None) -> None:
    """Let ``users`` read ``new`` instead of ``old``; None: every reader, and the graph's outputs and guards."""
    for node in graph.users(old) if users is None else users:
        node.replace_input(old, new)
    if users is None:
        graph.outputs = map_structure(lambda leaf: new if leaf is old else leaf, graph.outputs)
        graph.guards = [(new if value is old else value, expected) for value, expected in graph.guards]
        graph.updates = {name: new if value is old else value for name, value in graph.updates.items()}
    graph.touch()


def remove_node(graph: Graph, node: Node, argument: str | None = None) -> None:
    """Remove a node; who read its output reads what stood at ``argument`` (by default its only input).

    Raises:
        ValueError: the node has several inputs and no ``argument`` is given, or an output behind the first is read.
    """
    inputs = node.input_values()
    if argument is None and len(inputs) != 1:
        raise ValueError(f"node {node.name!r} has {len(inputs)} inputs: say which one takes its place")
    source = inputs[0] if argument is None else node.value(argument)
    for value in node.output_values():
        if value is not node.out and (graph.users(value) or graph.is_output(value)):
            raise ValueError(f"{value!r} is read, so node {node.name!r} cannot be removed")
    replace_value(graph, node.out, source)
    graph.nodes.remove(node)
    graph.touch()


def remove_dead_nodes(graph: Graph) -> int:
    """Remove nodes and parameters that no output, update or guard needs; returns how many nodes went."""
    kept = graph.kept_values()
    needed = graph.ancestors(kept)
    removed = len(graph.nodes) - len(needed)
    graph.nodes = needed
    read = {value for node in needed for value in node.input_values()} | set(kept)
    graph.parameters = {name: value for name, value in graph.parameters.items() if value in read}
    graph.touch()
    return removed
