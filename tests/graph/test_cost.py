"""Costs against formulas by hand and against an independent count while the layers run."""

from __future__ import annotations

import math
from typing import Any

import paddle
import pytest
from graph_nets import SPEC, TinyAttention, TinyDecoder, TinySeg, seeded
from paddle import nn
from paddle.static import InputSpec

from paddleseg_slim.graph import capture, cost
from paddleseg_slim.models.zoo import build


def counted_by_hooks(net: nn.Layer, shape: tuple[int, ...]) -> int:
    """Multiply-accumulates of convolutions and linear layers, from the tensors that pass through them."""
    total = 0

    def count(layer: nn.Layer, inputs: Any, output: Any) -> None:
        nonlocal total
        if isinstance(layer, nn.Conv2DTranspose):
            total += math.prod(inputs[0].shape) * math.prod(layer.weight.shape[1:])
        elif isinstance(layer, nn.Conv2D):
            total += math.prod(output.shape) * math.prod(layer.weight.shape[1:])
        elif isinstance(layer, nn.Linear):
            total += math.prod(output.shape) * layer.weight.shape[0]

    handles = [layer.register_forward_post_hook(count) for layer in net.sublayers()]
    net.eval()
    with paddle.no_grad():
        net(paddle.zeros(shape))
    for handle in handles:
        handle.remove()
    return total


def test_tiny_segmentation_by_hand() -> None:
    graph = capture(seeded(TinySeg), SPEC, verify=False)
    table = cost(graph.eval_graph, [(1, 3, 64, 96)])
    stem, quarter = 32 * 48, 16 * 24
    macs = stem * 8 * 27 + stem * 8 * 9 + quarter * 12 * 72 + 12 * 12 + stem * 4 * 20
    assert table.macs == macs
    by_name = {node.name: node for node in table.nodes}
    assert by_name["stem.conv"].macs == stem * 8 * 27 and by_name["stem.conv"].shape == (1, 8, 32, 48)
    assert by_name["stem.conv"].bytes == 4 * 8 * stem and by_name["stem.conv"].parameters == 8 * 27
    batch_norms = 4 * (8 + 8 + 12)
    convolutions = (8 * 27 + 8) + 8 * 9 + (12 * 72 + 12) + (12 * 12 + 12) + (4 * 20 + 4)
    assert table.parameters == convolutions + batch_norms
    assert cost(graph.eval_graph, [(2, 3, 64, 96)]).macs == 2 * macs


def test_attention_by_hand() -> None:
    graph = capture(seeded(TinyAttention), SPEC, verify=False)
    tokens, width = 8 * 12, 16
    linear = tokens * width * (3 * width + 2 * width + 2 * width)
    attention = 2 * (2 * tokens * tokens * (width // 2))
    assert cost(graph.eval_graph, [(1, 3, 64, 96)]).macs == tokens * width * 3 * 64 + linear + attention


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "shufflenet_v2_x0_25", "decoder", "fast_scnn"])
def test_against_hooks(name: str) -> None:
    if name == "decoder":
        net = seeded(TinyDecoder)
    elif name == "fast_scnn":
        net = build(name, 5)
    else:
        net = getattr(paddle.vision.models, name)(num_classes=7)
    graph = capture(net, SPEC, verify=False)
    shape = (1, 3, 64, 96)
    assert cost(graph.eval_graph, [shape]).macs == counted_by_hooks(net, shape)


def test_parameters_of_a_shared_weight_count_once() -> None:
    class Tied(nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: Any) -> Any:
            return self.linear(self.linear(x))

    graph = capture(Tied(), [InputSpec([None, 4], "float32", "x")])
    table = cost(graph.eval_graph, [(3, 4)])
    assert table.parameters == 20 and table.macs == 2 * 3 * 16
