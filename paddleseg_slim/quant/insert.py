"""Put quantizer nodes with their scales into both graphs of a model, and take single ones out again."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import paddle

from paddleseg_slim.graph import (
    Graph,
    GraphLayer,
    Node,
    Slot,
    Value,
    map_structure,
    remove_dead_nodes,
    remove_node,
)
from paddleseg_slim.quant.node import OP, Grid, quantize_array
from paddleseg_slim.quant.observers import Scale
from paddleseg_slim.quant.placement import WEIGHT_ARGUMENT, Placement, Site, activation_of, bias_name, weight_of

HOLDER = "quantizers"
"""Stored tensors of the quantizers are called ``quantizers.<value>.scale`` and ``.zero_point``."""


def tensor_name(group: str, leaf: str) -> str:
    """Name of a stored tensor of the sites of ``group``; ``leaf``: ``scale`` or ``zero_point``."""
    return f"{HOLDER}.{re.sub(r'[^0-9A-Za-z_]', '_', group)}.{leaf}"


def insert(
    layer: GraphLayer, placement: Placement, scales: Mapping[str, Scale], weight_scales: Mapping[str, np.ndarray]
) -> None:
    """Insert all quantizers of a placement.

    Args:
        layer: the model that the placement was made for; changed in place.
        placement: where.
        scales: of the activations, by group.
        weight_scales: of the weights, by parameter name.
    """
    for site in placement.sites:
        if site.kind == "weight":
            _store(layer, tensor_name(site.group, "scale"), weight_scales[site.group])
        else:
            choice = scales[site.group]
            _store(layer, tensor_name(site.group, "scale"), np.array(choice.scale))
            if choice.zero_point:
                _store(layer, tensor_name(site.group, "zero_point"), np.array(choice.zero_point))
    for graph in layer.graphs:
        _insert_sites(layer, graph, placement.sites)
        graph.check()


def _store(layer: GraphLayer, name: str, array: np.ndarray) -> None:
    if layer.has_tensor(name):  # another site of the group
        return
    tensor = paddle.to_tensor(np.asarray(array, np.float32))
    tensor.stop_gradient = True
    layer.add_tensor(name, tensor)


def _insert_sites(layer: GraphLayer, graph: Graph, sites: Sequence[Site]) -> None:
    """Insert all quantizers in one walk (an edit at a time would index the graph anew for each)."""
    behind: dict[Node | None, list[Node]] = {}
    replaced: dict[Value, Value] = {}
    for site in sites:
        if not graph.has_value(site.value):
            continue  # the other mode of the model has no such op
        value = graph.value(site.value)
        users = graph.users(value) if site.users is None else [graph.node(n) for n in site.users if graph.has_node(n)]
        if not users and not (site.users is None and graph.is_output(value)):
            continue
        inputs: dict[str, Slot] = {"x": value, **_stored_inputs(layer, graph, site.group)}
        node = Node(site.name, OP, inputs, site.grid.attrs())
        node.outputs = {"out": Value(site.name, value.dtype, value.shape, node)}
        for user in users:
            user.replace_input(value, node.out)
        if site.users is None:
            replaced[value] = node.out
        behind.setdefault(value.producer, []).append(node)
    graph.outputs = map_structure(
        lambda leaf: replaced.get(leaf, leaf) if isinstance(leaf, Value) else leaf, graph.outputs
    )
    ordered = list(behind.get(None, ()))
    for node in graph.nodes:
        ordered += [node, *behind.get(node, ())]
    graph.nodes = ordered
    graph.touch()


def _stored_inputs(layer: GraphLayer, graph: Graph, group: str) -> dict[str, Slot]:
    """The stored scale and zero point of a group as values of ``graph``."""
    names = {leaf: tensor_name(group, leaf) for leaf in ("scale", "zero_point")}
    for name in names.values():
        if layer.has_tensor(name) and name not in graph.parameters:
            graph.parameters[name] = Value(name, "float32", tuple(layer.tensor(name).shape))
    return {leaf: graph.parameters[name] for leaf, name in names.items() if layer.has_tensor(name)}


def quantizer_of(value: Value) -> Node | None:
    """The quantizer that makes ``value``; None when another op does."""
    return value.producer if value.producer is not None and value.producer.op == OP else None


def keep_layers_float(layer: GraphLayer, names: list[str]) -> None:
    """Let the layers called ``names`` read their float weight and input; quantizers that nothing reads then go."""
    for graph in layer.graphs:
        for name in names:
            if not graph.has_node(name):
                continue
            node = graph.node(name)
            for value in (activation_of(node), *(v for v in node.input_values() if quantizer_of(v))):
                quantizer = quantizer_of(value)
                if quantizer is not None:
                    node.replace_input(value, quantizer.value("x"))
        graph.touch()
        remove_dead_nodes(graph)
        graph.check()


def remove_quantizers(layer: GraphLayer) -> None:
    """Take every quantizer out: the float model with the weights as they are now."""
    for graph in layer.graphs:
        for node in [node for node in graph.nodes if node.op == OP]:
            remove_node(graph, node, "x")
        remove_dead_nodes(graph)
        graph.check()
    for name, _ in list(layer.tensors()):
        if name.startswith(f"{HOLDER}.") and not any(name in graph.parameters for graph in layer.graphs):
            layer.remove_tensor(name)


def round_biases(layer: GraphLayer) -> None:
    """Round each bias of a quantized layer to the steps of its accumulator, ``scale(x) * scale(weight)``, in place.

    Engines that hold biases as int32 do so; with it the model in memory computes what its file does.
    """
    graph = layer.eval_graph
    for node in graph.nodes:
        if node.op not in WEIGHT_ARGUMENT:
            continue
        weight, x = quantizer_of(node.value(WEIGHT_ARGUMENT[node.op])), quantizer_of(activation_of(node))
        name = bias_name(graph, node)
        if weight is None or x is None or name is None:
            continue
        step = layer.tensor(x.value("scale").name).numpy() * layer.tensor(weight.value("scale").name).numpy()
        array = layer.tensor(name).numpy()
        steps = np.rint(array.reshape(-1).astype(np.float64) / step)
        layer.tensor(name).set_value((steps * step).reshape(array.shape).astype(array.dtype))


def integer_weights(layer: GraphLayer) -> dict[str, np.ndarray]:
    """The weights as the integers that an engine stores, int8, by parameter name."""
    found: dict[str, np.ndarray] = {}
    for node in layer.eval_graph.nodes:
        if node.op == OP and layer.eval_graph.parameter_name(node.value("x")):
            name, grid = node.value("x").name, Grid.of(node)
            scale = layer.tensor(node.value("scale").name).numpy()
            found[name] = quantize_array(layer.tensor(name).numpy(), scale, grid).astype(np.int8)
    return found


def layer_weight(node: Node) -> str:
    """Name of the stored weight of a layer, quantized or not."""
    return weight_of(node).name
