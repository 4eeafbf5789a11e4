"""Cross-layer equalization (Nagel et al. 2019, section 4.1): even out channel ranges without changing the function.

For a layer, a ReLU and a layer, scaling an output channel of the first by ``1 / s`` and the same input channel of the
second by ``s`` changes nothing; ``s`` is chosen so that both weights span the same range in that channel.
"""

from __future__ import annotations

import numpy as np

from paddleseg_slim.graph import GraphLayer, Node
from paddleseg_slim.quant.placement import activation_of, bias_name, fused_output, weight_of, weighted_layers

LARGEST = 1e4
"""No channel is scaled by more than this."""


def equalize(layer: GraphLayer, rounds: int = 3) -> int:
    """Equalize every pair of convolutions that nothing but a bias and a ReLU stands between, in place.

    Args:
        layer: float, with folded normalisations.
        rounds: how often over all pairs; a chain of layers settles after a few.

    Returns:
        how many pairs there are.
    """
    pairs = _pairs(layer)
    for _ in range(rounds):
        for first, second in pairs:
            _equalize_pair(layer, first, second)
    return len(pairs)


def _pairs(layer: GraphLayer) -> list[tuple[Node, Node]]:
    graph = layer.eval_graph
    nodes = [node for node in weighted_layers(graph) if node.op in ("conv2d", "depthwise_conv2d")]
    pairs = []
    for first in nodes:
        output = fused_output(graph, first)
        if output.producer is not None and output.producer.op == "relu6":
            continue  # its limit does not scale
        readers = graph.users(output)
        shared = any(len(graph.users(weight_of(node))) != 1 for node in (first, *readers) if node in nodes)
        biased = graph.users(first.out)[:1] != [] and graph.users(first.out)[0].op == "add"
        if len(readers) != 1 or readers[0] not in nodes or graph.is_output(output) or shared:
            continue
        if activation_of(readers[0]) is output and (bias_name(layer.eval_graph, first) is not None or not biased):
            pairs.append((first, readers[0]))
    return pairs


def _input_ranges(weight: np.ndarray, groups: int) -> np.ndarray:
    """Largest magnitude of each input channel of ``[O, I / groups, kh, kw]``."""
    outputs, inside = weight.shape[:2]
    grouped = np.abs(weight).reshape(groups, outputs // groups, inside, -1)
    return np.asarray(grouped.max(axis=(1, 3))).reshape(groups * inside)


def _equalize_pair(layer: GraphLayer, first: Node, second: Node) -> None:
    name_a, name_b = weight_of(first).name, weight_of(second).name
    a, b = layer.tensor(name_a).numpy(), layer.tensor(name_b).numpy()
    groups = int(second.attrs.get("groups", 1))
    range_a, range_b = np.abs(a).reshape(len(a), -1).max(axis=1), _input_ranges(b, groups)
    usable = (range_a > 0) & (range_b > 0)
    ratio = np.sqrt(np.where(usable, range_a, 1.0) / np.where(usable, range_b, 1.0))
    factor = np.clip(np.where(usable, ratio, 1.0), 1 / LARGEST, LARGEST).astype(a.dtype)
    layer.set_tensor(name_a, a / factor.reshape(-1, 1, 1, 1))
    bias = bias_name(layer.eval_graph, first)
    if bias is not None:
        array = layer.tensor(bias).numpy()
        layer.set_tensor(bias, (array.reshape(-1) / factor).reshape(array.shape))
    inside = b.shape[1]
    by_group = factor.reshape(groups, 1, inside, 1)
    scaled = b.reshape(groups, len(b) // groups, inside, -1) * by_group
    layer.set_tensor(name_b, scaled.reshape(b.shape))
