"""Training with quantizers: the weights get used to few bits, and the result is a plain quantized model."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from quant_nets import SHAPE, images, small_model

from paddleseg_slim.graph import GraphLayer, PaddleExecutor
from paddleseg_slim.quant.ptq import QuantSettings, post_quantize
from paddleseg_slim.quant.qat import Training


def quantized(weight_bits: int) -> tuple[GraphLayer, GraphLayer]:
    source = small_model()
    settings = QuantSettings(weight_bits=weight_bits, activation_bits=weight_bits)
    layer, _ = post_quantize(source, [images()], settings, PaddleExecutor(), SHAPE)
    return source, layer


def distance(layer: GraphLayer, source: GraphLayer) -> float:
    x = paddle.to_tensor(images(8, seed=9))
    layer.eval()
    with paddle.no_grad():
        return float(((layer(x) - source(x)) ** 2).mean())


def train(layer: GraphLayer, source: GraphLayer, weights: str, activations: str, rate: float) -> Training:
    form = Training(layer, weights, activations)
    form.begin()
    adam = paddle.optimizer.Adam(rate, parameters=layer.parameters())
    for step in range(16):
        layer.train()
        x = paddle.to_tensor(images(8, seed=step))
        with paddle.no_grad():
            target = source(x)
        ((layer(x) - target) ** 2).mean().backward()
        adam.step()
        adam.clear_grad()
        form.keep_positive()
        if step == 12:
            form.freeze()
    return form


@pytest.mark.parametrize(
    ("weights", "activations"),
    [
        ("channel_wise_abs_max", "moving_average_abs_max"),
        ("channel_wise_abs_max", "PACT"),
        ("LSQ", "LSQ+"),
        ("DSQ", "DSQ"),
        ("channel_wise_abs_max", "range_abs_max"),
    ],
)
def test_training_comes_closer_to_the_float_model(weights: str, activations: str) -> None:
    source, layer = quantized(4)
    untrained = quantized(4)[1]
    train(untrained, source, weights, activations, rate=0.0)
    form = train(layer, source, weights, activations, rate=1e-3)
    assert bool(form.learned()) == (weights == "LSQ" or activations in ("LSQ", "LSQ+", "PACT"))
    for item in (form, Training(untrained, weights, activations)):
        item.end()
    assert distance(layer, source) < distance(untrained, source)
    assert not form.learned() and {n.op for g in layer.graphs for n in g.nodes if "slim" in n.op} == {"slim.fake_quant"}
    assert all((tensor.numpy() > 0).all() for name, tensor in layer.tensors() if name.endswith(".scale"))
    points = [tensor.item() for name, tensor in layer.tensors() if name.endswith(".zero_point")]
    assert all(point == round(point) for point in points)
    layer.train()
    trained = layer(paddle.to_tensor(images(2))).numpy()
    layer.eval()
    np.testing.assert_allclose(layer(paddle.to_tensor(images(2))).numpy(), trained, atol=1e-5)
