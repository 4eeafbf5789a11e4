"""A graph as plain JSON data and back."""

from __future__ import annotations

import copy
from typing import Any

from paddleseg_slim.graph.ir import Graph, Node, Slot, Value


def _slot_names(slot: Slot) -> Any:
    if slot is None:
        return None
    return [value.name for value in slot] if isinstance(slot, list) else slot.name


def _describe(value: Value) -> list[Any]:
    return [value.name, value.dtype, list(value.shape)]


def _output(slot: Value | list[Value]) -> Any:
    return [_describe(value) for value in slot] if isinstance(slot, list) else _describe(slot)


def _encode(structure: Any) -> Any:
    """JSON cannot tell a tuple from a list, nor a value from a text: every level says what it is."""
    if isinstance(structure, dict):
        return {"dict": [[key, _encode(item)] for key, item in structure.items()]}
    if isinstance(structure, (list, tuple)):
        return {type(structure).__name__: [_encode(item) for item in structure]}
    return {"value": structure.name} if isinstance(structure, Value) else {"constant": structure}


def _decode(data: Any, values: dict[str, Value]) -> Any:
    ((kind, content),) = data.items()
    if kind == "dict":
        return {key: _decode(item, values) for key, item in content}
    if kind in ("list", "tuple"):
        items = [_decode(item, values) for item in content]
        return items if kind == "list" else tuple(items)
    return values[content] if kind == "value" else content


def graph_to_dict(graph: Graph) -> dict[str, Any]:
    """Describe ``graph`` in data that JSON can hold; a value is named, and described where it is made."""
    nodes = [
        {
            "name": node.name,
            "op": node.op,
            "layer": node.layer,
            "inputs": {argument: _slot_names(slot) for argument, slot in node.inputs.items()},
            "attrs": copy.deepcopy(node.attrs),
            "outputs": {name: _output(slot) for name, slot in node.outputs.items()},
        }
        for node in graph.nodes
    ]
    return {
        "inputs": [_describe(value) for value in graph.inputs],
        "parameters": [_describe(value) for value in graph.parameters.values()],
        "nodes": nodes,
        "outputs": _encode(graph.outputs),
        "guards": [[value.name, expected] for value, expected in graph.guards],
        **({"updates": {name: value.name for name, value in graph.updates.items()}} if graph.updates else {}),
    }


def graph_from_dict(data: dict[str, Any]) -> Graph:
    """Rebuild the graph that `graph_to_dict` described.

    Raises:
        KeyError, ValueError, TypeError: the data is not such a description.
    """
    values: dict[str, Value] = {}

    def make(name: str, dtype: str, shape: list[int], producer: Node | None = None) -> Value:
        if name in values:
            raise ValueError(f"two values are called {name!r}")
        values[name] = Value(name, dtype, tuple(shape), producer)
        return values[name]

    def outputs(slot: Any, node: Node) -> Any:
        if slot and isinstance(slot[0], str):
            return make(slot[0], slot[1], slot[2], node)
        return [make(item[0], item[1], item[2], node) for item in slot]

    graph = Graph([make(*item) for item in data["inputs"]])
    graph.parameters = {item[0]: make(*item) for item in data["parameters"]}
    for item in data["nodes"]:
        inputs = {
            name: [values[v] for v in slot] if isinstance(slot, list) else None if slot is None else values[slot]
            for name, slot in item["inputs"].items()
        }
        node = Node(item["name"], item["op"], inputs, copy.deepcopy(item["attrs"]), layer=item["layer"])
        node.outputs = {name: outputs(slot, node) for name, slot in item["outputs"].items()}
        graph.nodes.append(node)
    graph.outputs = _decode(data["outputs"], values)
    graph.guards = [(values[name], expected) for name, expected in data["guards"]]
    graph.updates = {name: values[made] for name, made in data.get("updates", {}).items()}
    return graph
