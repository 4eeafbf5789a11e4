"""Detectors: many outputs, upsampling and concatenation, ESE attention, distributions read by a fixed convolution."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from graph.parity import assert_same, tensors
from graph_nets import DETECTORS, SPEC, image, seeded
from prune.matrix import captured, check_gated_equals_pruned

import paddleseg_slim.prune.rules  # noqa: F401
from paddleseg_slim.graph import capture, cost, export_inference, load, save
from paddleseg_slim.prune.channels import find_groups


def macs_by_hooks(net: paddle.nn.Layer, x: Any) -> int:
    """Counted as each convolution runs: every output element takes one filter."""
    counted: list[int] = []

    def count(layer: Any, inputs: Any, output: Any) -> None:
        counted.append(output.size * int(np.prod(layer.weight.shape[1:])))

    hooks = [layer.register_forward_post_hook(count) for layer in net.sublayers() if hasattr(layer, "_stride")]
    with paddle.no_grad():
        net(x)
    for hook in hooks:
        hook.remove()
    return sum(counted)


@pytest.mark.parametrize("name", DETECTORS)
def test_trains_and_evaluates_as_the_layer(name: str) -> None:
    net = seeded(DETECTORS[name])
    graph = capture(net, SPEC)
    assert graph.origin == "dynamic"
    assert_same(net, graph, [image(2, 96, 64)], steps=10)


@pytest.mark.parametrize("name", DETECTORS)
def test_saves_loads_and_exports(name: str, tmp_path: Path) -> None:
    graph = capture(seeded(DETECTORS[name]), SPEC, verify=False)
    graph.eval()
    x = image(2, 64, 96)
    expected = [out.numpy() for out in tensors(graph(x))]
    save(graph, tmp_path / "own")
    export_inference(graph, tmp_path / "pir" / "model")
    export_inference(graph, tmp_path / "old" / "model", file_format="pdmodel")
    for folder in ("own", "pir", "old"):
        for a, b in zip(tensors(load(tmp_path / folder)(x)), expected):
            np.testing.assert_allclose(a.numpy(), b, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("name", DETECTORS)
def test_costs(name: str) -> None:
    net = seeded(DETECTORS[name])
    net.eval()
    graph = capture(net, SPEC, verify=False)
    counted = cost(graph.eval_graph, [(1, 3, 64, 96)])
    assert counted.macs == macs_by_hooks(net, image(1, 64, 96)) > 0
    stored = sum(int(tensor.size) for tensor in net.state_dict().values())
    assert stored <= counted.parameters <= stored + 64  # anchors are constants


@pytest.mark.parametrize("name", DETECTORS)
def test_channels_are_pruned_as_gated(name: str) -> None:
    groups = find_groups(captured(seeded(DETECTORS[name])))
    assert len(groups.groups) > 10
    check_gated_equals_pruned(groups, 64)
