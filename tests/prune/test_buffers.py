"""Tensors that the model writes into itself lose the channels that it loses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn
from prune.matrix import captured, check_gated_equals_pruned, difference, outputs

from paddleseg_slim.graph import GraphLayer, load, save
from paddleseg_slim.prune.channels import find_groups
from paddleseg_slim.prune.surgery import cut, replay

KEPT = [0, 3, 4, 7]


class Centred(nn.Layer):
    """Subtracts a moving average of the channels' means, and remembers the last means."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2D(3, 8, 3), nn.Conv2D(8, 4, 1)
        self.register_buffer("average", paddle.zeros([8, 1, 1]))
        self.register_buffer("last", paddle.zeros([8]))

    def forward(self, x: Any) -> Any:
        y = self.first(x)
        if self.training:
            mean = y.detach().mean([0, 2, 3])
            self.average = self.average * 0.9 + 0.1 * mean.reshape([8, 1, 1])
            paddle.assign(mean, self.last)
        return self.second(paddle.tanh(y - self.average))


class Extremes(nn.Layer):
    """Writes single elements of a buffer of all channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2D(3, 8, 3), nn.Conv2D(8, 4, 1)
        self.register_buffer("means", paddle.zeros([8]))

    def forward(self, x: Any) -> Any:
        y = self.first(x)
        if self.training:
            self.means[0] = y.detach().mean()
        return self.second(y * (1 + self.means.reshape([8, 1, 1])))


def trained(model: GraphLayer, steps: int = 2) -> dict[str, np.ndarray]:
    """Buffers after some forward passes in training mode."""
    model.train()
    for step in range(steps):
        random = np.random.default_rng(step)
        model(paddle.to_tensor(random.normal(size=(2, 3, 9, 9)).astype("float32")))
    return {name: model.tensor(name).numpy() for name in ("average", "last")}


def test_a_moving_average_and_a_tensor_only_written(tmp_path: Path) -> None:
    paddle.seed(0)
    model = captured(Centred())
    assert set(model.train_graph.updates) == {"average", "last"}
    groups = find_groups(model, 9)
    check_gated_equals_pruned(groups, 9)
    pruned = cut(groups, {"first": KEPT})
    assert tuple(pruned.tensor("average").shape) == (4, 1, 1) and tuple(pruned.tensor("last").shape) == (4,)
    fresh = replay(model, pruned.record[-1])
    save(pruned, tmp_path / "pruned")
    loaded = load(tmp_path / "pruned")
    expected = trained(model)
    assert np.abs(expected["average"]).max() > 0.01
    x = np.random.default_rng(5).normal(size=(1, 3, 9, 9)).astype("float32")
    results = []
    for other in (pruned, fresh, loaded):
        for name, array in trained(other).items():
            np.testing.assert_allclose(array, expected[name][KEPT], atol=1e-6)
        results.append(outputs(other, x))
    assert all(difference(result, results[0]) < 1e-6 for result in results)
    again = find_groups(pruned, 9)
    assert again.by_name["first"].width == 4


def test_single_elements_written_keep_their_channels() -> None:
    groups = find_groups(captured(Extremes()), 9)
    (layer,) = (layer for layer in groups.layers() if layer.node == "first")
    assert layer.prunable == 0 and "set_value" in layer.reason
    assert "first" not in groups.by_name
