"""Channels that change places keep their freedom: each may be removed by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.nn import functional as F
from prune.matrix import captured, check_gated_equals_pruned, difference, outputs, random_keep

from paddleseg_slim.deploy.executor import executor
from paddleseg_slim.graph import GraphLayer, load, save
from paddleseg_slim.prune.channels import find_groups
from paddleseg_slim.prune.surgery import cut, replay


def by_hand(x: Any) -> Any:
    n, c, h, w = x.shape
    return x.reshape([n, 2, c // 2, h, w]).transpose([0, 2, 1, 3, 4]).reshape([n, c, h, w])


SHUFFLES = {"by hand": by_hand, "op": lambda x: F.channel_shuffle(x, 2)}


class Shuffled(nn.Layer):
    """Two convolutions with a shuffle between them.

    Args:
        shuffle: of the channels.
        groups: of both convolutions.
    """

    def __init__(self, shuffle: Any, groups: int = 1) -> None:
        super().__init__()
        self.first, self.shuffle = nn.Conv2D(3, 16, 3, padding=1), shuffle
        self.second = nn.Conv2D(16, 16, 3, padding=1, groups=groups)
        self.third = nn.Conv2D(16, 12, 1, groups=groups)
        self.last = nn.Conv2D(12, 4, 1)

    def forward(self, x: Any) -> Any:
        x = self.shuffle(F.relu(self.second(F.relu(self.first(x)))))
        return self.last(F.sigmoid(self.third(x)))


class Units(nn.Layer):
    """Three units of ShuffleNetV2: half of the channels pass, the others are worked on."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2D(3, 16, 3, padding=1), nn.Conv2D(16, 4, 1)
        self.branches = nn.LayerList([nn.Sequential(nn.Conv2D(8, 8, 1), nn.Sigmoid()) for _ in range(3)])

    def forward(self, x: Any) -> Any:
        x = self.stem(x)
        for branch in self.branches:
            left, right = paddle.split(x, 2, axis=1)
            x = by_hand(paddle.concat([left, branch(right)], axis=1))
        return self.head(x)


def shuffles(model: GraphLayer) -> list[str]:
    return [n.op for n in model.eval_graph.nodes if n.op in ("gather", "transpose", "channel_shuffle")]


@pytest.mark.parametrize("kind", SHUFFLES)
def test_each_channel_in_front_of_a_shuffle_goes_by_itself(kind: str) -> None:
    paddle.seed(0)
    groups = find_groups(captured(Shuffled(SHUFFLES[kind])), 16)
    assert groups.by_name["second"].width == 16
    kept = [0, 1, 2, 5, 6, 9, 13]
    pruned = cut(groups, {"second": kept})
    assert shuffles(pruned) == ["gather"]
    assert tuple(pruned.tensor("third.weight").shape)[:2] == (12, 7)
    check_gated_equals_pruned(groups, 16)
    order = np.arange(16).reshape(2, 8).T.reshape(-1)  # what stands where behind the shuffle
    expected = groups.model.tensor("third.weight").numpy()[:, np.flatnonzero(np.isin(order, kept))]
    np.testing.assert_array_equal(pruned.tensor("third.weight").numpy(), expected)


@pytest.mark.parametrize("kind", SHUFFLES)
def test_equal_blocks_stay_a_shuffle(kind: str) -> None:
    groups = find_groups(captured(Shuffled(SHUFFLES[kind])), 16)
    before = shuffles(groups.model)
    assert shuffles(cut(groups, {"second": [1, 2, 5, 9, 10, 13]})) == before  # 1, 2, 5 of either block


@pytest.mark.parametrize("kind", SHUFFLES)
def test_grouped_convolutions_on_both_sides(kind: str) -> None:
    paddle.seed(0)
    groups = find_groups(captured(Shuffled(SHUFFLES[kind], groups=2)), 16)
    assert groups.groups and all("second" in layer.groups or layer.node != "second" for layer in groups.layers())
    check_gated_equals_pruned(groups, 16, one_by_one=True)


def test_units_of_shufflenet(tmp_path: Path) -> None:
    paddle.seed(0)
    groups = find_groups(captured(Units()), 16)
    free = {layer.node: layer.prunable for layer in groups.layers()}
    assert sum(free.values()) >= 0.9 * (16 + 3 * 8)
    check_gated_equals_pruned(groups, 16, one_by_one=True)
    check_gated_equals_pruned(groups, 16)
    pruned = cut(groups, random_keep(groups, 0.4))
    assert shuffles(pruned) == ["gather"] * 3
    x = np.random.default_rng(0).standard_normal((2, 3, 16, 24)).astype("float32")
    expected = outputs(pruned, x)
    save(pruned, tmp_path / "model")
    assert difference(outputs(load(tmp_path / "model"), x), expected) == 0
    fresh = replay(groups.model, pruned.record[-1])
    assert difference(outputs(fresh, x), expected) == 0
    again = find_groups(pruned, 16)
    check_gated_equals_pruned(again, 16)
    assert again.macs(again.widths) == pytest.approx(find_groups(fresh, 16).macs(again.widths))
    engine = executor("onnxruntime", 1)
    graph = pruned.eval_graph
    run = engine.prepare(graph, {name: pruned.tensor(name) for name in graph.parameters})
    (name,) = (value.name for value in graph.inputs)
    assert difference(list(run({name: x}).values()), expected) < 1e-5
