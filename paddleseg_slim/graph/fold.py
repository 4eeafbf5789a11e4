"""Folding: batch normalisation into the convolution or linear layer before it, and constants computed once."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle

from paddleseg_slim.graph.edit import add_node, remove_dead_nodes, remove_node, replace_value
from paddleseg_slim.graph.host import host_nodes
from paddleseg_slim.graph.ir import Graph, Node, Value
from paddleseg_slim.graph.layer import GraphLayer, new_parameter
from paddleseg_slim.graph.part import extract
from paddleseg_slim.graph.pir import RANDOM_OPS
from paddleseg_slim.graph.run import DATA_DEPENDENT_OPS, Plan

WEIGHT_ARGUMENT = {
    "conv2d": "filter",
    "depthwise_conv2d": "filter",
    "conv2d_transpose": "filter",
    "depthwise_conv2d_transpose": "filter",
    "conv3d": "filter",
    "matmul": "y",
}
"""Ops with a weight that a following normalisation folds into, and the argument where it stands."""


@dataclass(frozen=True)
class _Match:
    """A product, perhaps its bias, and the normalisation behind it."""

    product: Node
    add: Node | None
    bias: str | None
    norm: Node


def fold_batch_norm(layer: GraphLayer) -> list[str]:
    """Fold every batch normalisation that directly follows a convolution or linear layer, in both graphs.

    The eval function stays (up to rounding); in train mode the layer then trains without those normalisations. Only
    layers whose weight, bias and product nothing else reads are folded.

    Returns:
        names of the nodes that took a normalisation in.
    """
    matches = [{m.product.name: m for m in _matches(graph)} for graph in layer.graphs]
    fixed = [name for name, match in matches[1].items() if uses_stored_statistics(match.norm)]
    folded = [name for name in fixed if name in matches[0] or not layer.train_graph.has_node(name)]
    for name in folded:
        match = matches[1][name]
        weight = match.product.value(WEIGHT_ARGUMENT[match.product.op]).name
        bias = _fold_tensors(layer, match, weight)
        for graph, found in zip(layer.graphs, matches):
            if name in found:
                _rewire(layer, graph, found[name], bias)
    for graph in layer.graphs:
        remove_dead_nodes(graph)
        graph.check()
    _forget_unread(layer, [m for name in folded for m in (matches[1][name],)])
    return folded


def norms_behind(graph: Graph) -> dict[str, Node]:
    """Convolution or linear layer -> the normalisation by stored statistics that follows it, perhaps behind a bias.

    Without layers of which something else reads the weight, the bias or the product.
    """
    return {match.product.name: match.norm for match in _matches(graph) if uses_stored_statistics(match.norm)}


def uses_stored_statistics(norm: Node) -> bool:
    """Whether a batch normalisation is a factor and a shift by channel: not by the mean and variance of its batch."""
    fixed = norm.attrs.get("is_test") and not norm.attrs.get("trainable_statistics")
    return bool(fixed or norm.attrs.get("use_global_stats"))


def norm_factor(norm: Node, array: Callable[[str], np.ndarray]) -> np.ndarray:
    """What a batch normalisation in evaluation multiplies each channel by, float64 ``[C]``; parameters by ``array``."""
    scale, variance = (array(norm.value(argument).name).astype(np.float64) for argument in ("scale", "variance"))
    return scale / np.sqrt(variance + norm.attrs["epsilon"])


def _matches(graph: Graph) -> list[_Match]:
    return [match for node in graph.nodes if node.op == "batch_norm" for match in [_match(graph, node)] if match]


def _match(graph: Graph, norm: Node) -> _Match | None:
    chain = norm.value("x")
    if not _only_reader(graph, chain, norm) or norm.attrs.get("data_format", "NCHW") not in ("NCHW", "NCDHW", "NC"):
        return None
    add = chain.producer if chain.producer is not None and chain.producer.op == "add" else None
    bias = _bias_of(graph, add) if add is not None else None
    if add is not None and bias is None:
        return None
    product = (add.value("x") if add is not None else chain).producer
    if product is None or product.op not in WEIGHT_ARGUMENT:
        return None
    if add is not None and not _only_reader(graph, product.out, add):
        return None
    weight = product.value(WEIGHT_ARGUMENT[product.op])
    stored = [norm.inputs.get(argument) for argument in ("mean", "variance", "scale", "bias")]
    if not all(isinstance(value, Value) and graph.parameter_name(value) for value in stored):
        return None
    if bias is not None and math.prod(graph.parameters[bias].shape) != math.prod(norm.value("scale").shape):
        return None
    if graph.parameter_name(weight) is None or len(graph.users(weight)) != 1:
        return None
    return _Match(product, add, bias, norm)


def _only_reader(graph: Graph, value: Value, reader: Node) -> bool:
    return graph.users(value) == [reader] and not graph.is_output(value)


def _bias_of(graph: Graph, add: Node) -> str | None:
    """The parameter that ``add`` adds, directly or through a reshape, if nothing else reads it."""
    value = add.inputs.get("y")
    if not isinstance(value, Value) or not isinstance(add.inputs.get("x"), Value):
        return None
    if value.producer is not None and value.producer.op == "reshape" and graph.users(value) == [add]:
        value = value.producer.value("x")
    name = graph.parameter_name(value)
    return name if name is not None and len(graph.users(value)) == 1 else None


def _fold_tensors(layer: GraphLayer, match: _Match, weight: str) -> str:
    """Change the stored weight and bias; returns the name of the bias."""

    def array(argument: str) -> np.ndarray:
        return layer.tensor(match.norm.value(argument).name).numpy().astype("float64")

    factor = norm_factor(match.norm, lambda name: layer.tensor(name).numpy())
    old = layer.tensor(weight).numpy()
    offset = layer.tensor(match.bias).numpy().astype("float64").reshape(-1) if match.bias else 0.0
    bias = array("bias") + (offset - array("mean")) * factor
    layer.set_tensor(weight, _scaled(match.product, old.astype("float64"), factor).astype(old.dtype))
    if match.bias:
        layer.set_tensor(match.bias, bias.reshape(layer.tensor(match.bias).shape).astype(old.dtype))
        return match.bias
    name = f"{weight.rpartition('.')[0] or match.product.name}.bias"
    while layer.has_tensor(name):
        name += "_"
    trainable = not layer.tensor(weight).stop_gradient
    tensor = paddle.to_tensor(bias.astype(old.dtype))
    layer.add_tensor(name, new_parameter(tensor, f"{layer.tensor(weight).name}_bias", trainable))
    return name


def _scaled(product: Node, weight: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Scale each output channel of a weight: axis 0 of ``[O, I/g, ...]``; ``[I, O/g, ...]`` when transposed."""
    if product.op == "matmul":
        return weight * (factor[:, None] if product.attrs.get("transpose_y") else factor)
    spatial = (1,) * (weight.ndim - 2)
    if "transpose" not in product.op:
        return weight * factor.reshape(-1, 1, *spatial)
    groups = int(product.attrs.get("groups", 1))
    grouped = weight.reshape(groups, -1, *weight.shape[1:])
    return (grouped * factor.reshape(groups, 1, -1, *spatial)).reshape(weight.shape)


def _rewire(layer: GraphLayer, graph: Graph, match: _Match, bias: str) -> None:
    """Take the normalisation out of the graph; add the bias where there was none."""
    source = match.norm.value("x")
    if match.add is not None:
        remove_node(graph, match.norm, "x")
        return
    layer.add_parameter_value(bias)
    operand, after = graph.parameters[bias], match.product
    if match.product.op != "matmul":
        shape = [1, -1] + [1] * (len(match.product.out.shape) - 2)
        after = add_node(graph, after, "reshape", f"{match.product.name}/reshape", {"x": operand}, {"shape": shape})
        after.out.shape = tuple(size if size != -1 else operand.shape[0] for size in shape)
        operand = after.out
    added = add_node(graph, after, "add", f"{match.product.name}/add", {"x": source, "y": operand}, {})
    replace_value(graph, match.norm.out, added.out)
    graph.nodes.remove(match.norm)
    graph.touch()


def _forget_unread(layer: GraphLayer, matches: list[_Match]) -> None:
    for match in matches:
        for value in match.norm.input_values()[1:]:
            if not any(value.name in graph.parameters for graph in layer.graphs):
                layer.remove_tensor(value.name)


def fold_constants(layer: GraphLayer) -> int:
    """Compute once what depends on no input and no parameter (position grids, masks), in both graphs.

    The results become fixed tensors named ``constants.<node>``.

    Returns:
        how many nodes went.
    """
    removed = 0
    for mode, graph in zip(("train", "eval"), layer.graphs):
        constant = _constant_values(graph)
        wanted = [
            value for value in constant if any(user.out not in constant for user in graph.users(value) if user.outputs)
        ]
        if not wanted:
            continue
        part = extract(graph, [], wanted)
        with paddle.no_grad():
            results: list[Any] = Plan(part).run([], [])
        for value, tensor in zip(wanted, results):
            name = f"constants.{mode}.{value.name}".replace("/", "_").replace(":", "_")
            tensor.stop_gradient = True
            layer.add_tensor(name, tensor, persistable=False)
            graph.parameters[name] = Value(name, value.dtype, tuple(tensor.shape))
            replace_value(graph, value, graph.parameters[name])
        removed += remove_dead_nodes(graph)
        graph.check()
    return removed


def _constant_values(graph: Graph) -> dict[Value, None]:
    """Values that are the same in every run, without host integers and plain fills (a plan keeps those itself)."""
    host = {value for node in host_nodes(graph) for value in node.output_values()}
    fixed: dict[Value, None] = {}
    for node in graph.nodes:
        inputs = node.input_values()
        known = all(v in fixed or (v in host and _is_fixed_host(v)) for v in inputs)
        if known and node.out not in host and node.op not in RANDOM_OPS | DATA_DEPENDENT_OPS:
            fixed.update(dict.fromkeys(node.output_values()))
    return fixed


def _is_fixed_host(value: Value) -> bool:
    """Whether a host value comes from constants alone, not from a shape."""
    pending = [value]
    while pending:
        node = pending.pop().producer
        if node is None or node.op in ("shape", "shape64", "numel"):
            return False
        pending.extend(node.input_values())
    return True
