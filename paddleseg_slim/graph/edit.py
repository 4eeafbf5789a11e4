"""Edits of a graph. Each leaves it valid; the caller asks for `refresh_shapes` after the last one."""

from __future__ import annotations

from paddleseg_slim.graph.ir import Graph


def remove_dead_nodes(graph: Graph) -> int:
    """Remove nodes and parameters that no output and no guard needs; returns how many nodes went."""
    needed = graph.ancestors([*graph.output_values(), *(value for value, _ in graph.guards)])
    removed = len(graph.nodes) - len(needed)
    graph.nodes = needed
    read = {value for node in needed for value in node.input_values()} | set(graph.output_values())
    graph.parameters = {name: value for name, value in graph.parameters.items() if value in read}
    graph.touch()
    return removed
