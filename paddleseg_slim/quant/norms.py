"""Batch statistics in quantization-aware training: normalisations kept behind the folded, quantized layers.

A trained normalisation is folded into its layer, so its output has the mean ``beta`` and the variance ``gamma ** 2`` of
the normalisation that was there. Behind the layer a new one is put with just these statistics, scale and shift: in eval
mode it changes nothing, in train mode it normalises by the batch as before the folding (Krishnamoorthi 2018, section
3.2.2), and near the end it is frozen. At last it is folded again: with a scale for each output channel its factor goes
into the scale of the quantizer, and no integer changes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle

from paddleseg_slim.errors import UserError
from paddleseg_slim.graph import Graph, GraphLayer, Node, Value, map_structure, remove_dead_nodes, replace_value
from paddleseg_slim.graph.layer import new_parameter
from paddleseg_slim.quant.insert import quantizer_of
from paddleseg_slim.quant.node import TINY_SCALE
from paddleseg_slim.quant.placement import WEIGHT_ARGUMENT, Placement, bias_name, channel_axis, weight_of

EPSILON = 1e-5
_LEAVES = ("mean", "variance", "scale", "bias")
_SIDE_OUTPUTS = ("mean_out", "variance_out", "saved_mean", "saved_variance", "reserve_space")


class Norms:
    """The normalisations kept in a quantized model while it trains.

    Args:
        layer: quantized, made of ``source`` with folded normalisations; changed in place.
        source: the float model with its normalisations.
        placement: of the quantizers.

    Raises:
        UserError: weights have one scale for all channels, so that factors could not be folded again.
    """

    def __init__(self, layer: GraphLayer, source: GraphLayer, placement: Placement) -> None:
        if any(site.grid.axis is None for site in placement.weights()):
            raise UserError(
                "Batch statistics need a scale for each output channel of a weight.",
                "Give --weight_quantize_type channel_wise_abs_max, or --batch_norm fold.",
            )
        self.layer = layer
        self.kept: dict[str, str] = {}
        for number, name in enumerate(placement.layers):
            norm = _norm_behind(source.eval_graph, source.eval_graph.node(name))
            if norm is not None and _can_keep(layer, name):
                self.kept[name] = f"norms.{number}"
                self._keep(name, source, norm)
        for graph in layer.graphs:
            graph.check()

    def _keep(self, name: str, source: GraphLayer, norm: Node) -> None:
        gamma, beta = (source.tensor(norm.value(leaf).name).numpy() for leaf in ("scale", "bias"))
        variance = gamma.astype(np.float64) ** 2
        arrays = (beta, variance, np.sqrt(variance + EPSILON), beta)
        for leaf, array in zip(_LEAVES, arrays):
            full, tensor = f"{self.kept[name]}.{leaf}", paddle.to_tensor(array.astype(np.float32))
            learned = leaf in ("scale", "bias")
            tensor.stop_gradient = True
            self.layer.add_tensor(full, new_parameter(tensor, full.replace(".", "_"), True) if learned else tensor)
            self.layer.add_parameter_value(full)
        for graph, training in zip(self.layer.graphs, (True, False)):
            if graph.has_node(name):
                _insert(graph, graph.node(name), self.kept[name], training)

    def freeze(self) -> None:
        """Normalise by the running statistics from now on."""
        for node in self.layer.train_graph.nodes:
            if node.name in self.kept.values():
                node.attrs.update(is_test=True, use_global_stats=True)
        self.layer.train_graph.touch()

    def fold(self) -> None:
        """Fold them into weights, biases and scales; the eval function stays."""
        for name, prefix in self.kept.items():
            mean, variance, scale, shift = (
                self.layer.tensor(f"{prefix}.{leaf}").numpy().astype(np.float64) for leaf in _LEAVES
            )
            factor = scale / np.sqrt(variance + EPSILON)
            self._scale_layer(self.layer.eval_graph.node(name), factor, shift - mean * factor)
            for graph in self.layer.graphs:
                if graph.has_node(prefix):
                    node = graph.node(prefix)
                    replace_value(graph, node.out, node.value("x"))
        for graph in self.layer.graphs:
            remove_dead_nodes(graph)
            graph.check()
        for prefix in self.kept.values():
            for leaf in _LEAVES:
                self.layer.remove_tensor(f"{prefix}.{leaf}")
        self.kept = {}

    def _scale_layer(self, node: Node, factor: np.ndarray, offset: np.ndarray) -> None:
        weight, quantizer = weight_of(node).name, quantizer_of(node.value(WEIGHT_ARGUMENT[node.op]))
        bias = bias_name(self.layer.eval_graph, node)
        assert quantizer is not None and bias is not None
        array = self.layer.tensor(weight).numpy()
        spread = [-1 if axis == channel_axis(node) else 1 for axis in range(array.ndim)]
        _put(self.layer, weight, array * factor.reshape(spread))
        step = self.layer.tensor(quantizer.value("scale").name).numpy()
        _put(self.layer, quantizer.value("scale").name, np.maximum(step * np.abs(factor), TINY_SCALE))
        old = self.layer.tensor(bias).numpy()
        _put(self.layer, bias, (old.reshape(-1) * factor + offset).reshape(old.shape))


def _put(layer: GraphLayer, name: str, array: np.ndarray) -> None:
    layer.tensor(name).set_value(array.astype(np.float32))


def _norm_behind(graph: Graph, node: Node) -> Node | None:
    """The normalisation of a layer of the float model, behind its bias if it has one."""
    value = node.out
    for _ in range(2):
        readers = graph.users(value)
        if len(readers) != 1 or readers[0].op not in ("batch_norm", "add"):
            return None
        if readers[0].op == "batch_norm":
            return readers[0]
        value = readers[0].out
    return None


def _can_keep(layer: GraphLayer, name: str) -> bool:
    node = layer.eval_graph.node(name)
    return "conv" in node.op and channel_axis(node) is not None and bias_name(layer.eval_graph, node) is not None


def _insert(graph: Graph, layer_node: Node, name: str, training: bool) -> None:
    """Put a normalisation behind the bias of a layer."""
    x = graph.users(layer_node.out)[0].out
    readers = graph.users(x)
    inputs: dict[str, Any] = {"x": x, **{leaf: graph.parameters[f"{name}.{leaf}"] for leaf in _LEAVES}}
    attrs = {"is_test": not training, "momentum": 0.9, "epsilon": EPSILON, "data_format": "NCHW",
             "use_global_stats": not training, "trainable_statistics": False}  # fmt: skip
    node = Node(name, "batch_norm", inputs, attrs, layer=layer_node.layer)
    node.outputs = {"out": Value(name, x.dtype, x.shape, node)}
    channels = graph.parameters[f"{name}.mean"].shape
    for leaf in _SIDE_OUTPUTS:
        kind, shape = ("uint8", (-1,)) if leaf == "reserve_space" else ("float32", channels)
        node.outputs[leaf] = Value(f"{name}:{leaf}", kind, shape, node)
    assert x.producer is not None
    graph.nodes.insert(graph.nodes.index(x.producer) + 1, node)
    graph.touch()
    replace_value(graph, x, node.out, [reader for reader in readers if reader is not node])
    graph.outputs = map_structure(lambda leaf: node.out if leaf is x else leaf, graph.outputs)
