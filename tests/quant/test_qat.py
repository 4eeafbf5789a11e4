"""Training with quantizers: the weights get used to few bits, and the result is a plain quantized model."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from quant_nets import SHAPE, images, small_model

from paddleseg_slim.errors import UserError
from paddleseg_slim.graph import GraphLayer, PaddleExecutor
from paddleseg_slim.quant.norms import Norms
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


@pytest.mark.parametrize("weights", ["channel_wise_abs_max", "LSQ"])
def test_batch_statistics_go_on_and_are_folded_exactly(weights: str) -> None:
    source = small_model()
    layer, calibration = post_quantize(source, [images()], QuantSettings(weight_bits=4), PaddleExecutor(), SHAPE)
    x = paddle.to_tensor(images(8, seed=9))
    layer.eval()
    before = layer(x).numpy()
    norms = Norms(layer, source, calibration.placement)
    assert len(norms.kept) >= 4
    np.testing.assert_allclose(layer(x).numpy(), before, atol=0.02 * np.ptp(before))  # identity, but for ties
    form = Training(layer, weights, "moving_average_abs_max", norms=norms)
    form.begin()
    adam = paddle.optimizer.Adam(1e-3, parameters=layer.parameters())
    means = {name: t.numpy().copy() for name, t in layer.tensors() if name.endswith(".mean")}
    for step in range(6):
        layer.train()
        if step == 4:
            form.freeze()
            frozen = {name: layer.tensor(name).numpy().copy() for name in means}
        (
            (layer(paddle.to_tensor(images(8, seed=step))) - source(paddle.to_tensor(images(8, seed=step)))) ** 2
        ).mean().backward()
        adam.step()
        adam.clear_grad()
    assert all(np.abs(frozen[name] - array).max() > 0 for name, array in means.items())
    assert all(np.array_equal(frozen[name], layer.tensor(name).numpy()) for name in means)
    layer.eval()
    trained = layer(x).numpy()
    norms.fold()
    agree = np.isclose(layer(x).numpy(), trained, atol=0.02 * np.ptp(trained)).mean()
    assert agree > 0.99
    form.end()
    assert not any(node.op == "batch_norm" for graph in layer.graphs for node in graph.nodes)
    assert not any(name.startswith("norms.") for name, _ in layer.tensors())


def test_batch_statistics_need_scales_by_channel() -> None:
    source = small_model()
    settings = QuantSettings(weight_type="abs_max")
    layer, calibration = post_quantize(source, [images()], settings, PaddleExecutor(), SHAPE)
    with pytest.raises(UserError, match="channel_wise_abs_max"):
        Norms(layer, source, calibration.placement)
