"""Convolutions of a tail that sum over what changes alone: equal to the pruned model, made once, to the last bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn

from paddleseg_slim.deploy.executor import OnnxExecutor
from paddleseg_slim.errors import UserError
from paddleseg_slim.graph import PaddleExecutor
from paddleseg_slim.prune.channels import ChannelGroups, find_groups
from paddleseg_slim.prune.gates import insert_gates
from paddleseg_slim.prune.tails import Head, Tail, find_tails
from tests.prune.matrix import captured, cut, difference, outputs

F = nn.functional


def block(before: int, after: int, kernel: int = 3, **more: Any) -> nn.Layer:
    conv = nn.Conv2D(before, after, kernel, padding=kernel // 2, **more)
    return nn.Sequential(conv, nn.BatchNorm2D(after), nn.ReLU())


class Joining(nn.Layer):
    """Two steps down and one up: joined with a shortcut, with a value that is pooled, and by a grouped convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down = block(3, 8), block(8, 12, bias_attr=False)
        self.linear = nn.Sequential(nn.Conv2D(12, 12, 1), nn.BatchNorm2D(12))
        self.deep, self.up = block(12, 16), block(16 + 12 + 8, 8)
        self.mixed, self.head = nn.Conv2D(8 + 8, 8, 3, padding=1, groups=2), nn.Conv2D(8, 5, 1)

    def forward(self, x: Any) -> list[Any]:
        a = self.stem(x)
        b = self.down(F.max_pool2d(a, 2))
        c = self.deep(self.linear(F.max_pool2d(b, 2)))
        low = F.interpolate(c, scale_factor=2, mode="nearest")
        up = self.up(paddle.concat([F.interpolate(low, scale_factor=2), F.interpolate(b, scale_factor=2), a], axis=1))
        return [self.head(F.relu(self.mixed(paddle.concat([up, a], axis=1)))) + paddle.concat([low, b], axis=1).mean()]


class SharedFilter(nn.Layer):
    """One convolution at two levels, with a BatchNorm for each: a tail holds one use of the filter or both."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down, self.up = block(3, 8), block(8, 8, stride=2), nn.Conv2D(6, 8, 3, padding=1)
        self.shared, self.head = nn.Conv2D(16, 6, 3, padding=1), nn.Conv2D(6, 5, 1)
        self.norms = nn.LayerList([nn.BatchNorm2D(6), nn.BatchNorm2D(6)])

    def forward(self, x: Any) -> list[Any]:
        a = self.stem(x)
        low = self.norms[0](self.shared(paddle.concat([self.down(a), F.max_pool2d(a, 2)], axis=1)))
        up = F.interpolate(F.relu(self.up(F.relu(low))), scale_factor=2)
        return [self.head(F.relu(self.norms[1](self.shared(paddle.concat([up, a], axis=1)))))]


class BothSides(nn.Layer):
    """The channels of a group as they are and behind a sum, in one concat."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = block(3, 8), nn.Sequential(nn.Conv2D(8, 8, 3, padding=1), nn.BatchNorm2D(8))
        self.joint, self.head = block(16, 7), nn.Conv2D(7, 5, 1)

    def forward(self, x: Any) -> list[Any]:
        a = self.stem(x)
        return [self.head(self.joint(paddle.concat([a, F.relu(self.body(a) + a)], axis=1)))]


class JoinedOutput(nn.Layer):
    """What could be split is the output."""

    def __init__(self, norm: bool) -> None:
        super().__init__()
        self.stem, self.body = block(3, 8), block(8, 8)
        self.head, self.norm = nn.Conv2D(16, 5, 1, bias_attr=False), nn.BatchNorm2D(5) if norm else nn.Identity()

    def forward(self, x: Any) -> list[Any]:
        a = self.stem(x)
        return [self.norm(self.head(paddle.concat([self.body(a), a], axis=1)))]


class OtherNorm(nn.Layer):
    """A BatchNorm without scale or bias, or by the statistics of the batch, behind what could be split."""

    def __init__(self, **norm: Any) -> None:
        super().__init__()
        self.stem, self.body = block(3, 8), block(8, 8)
        self.joint, self.head = nn.Conv2D(16, 6, 3, padding=1), nn.Conv2D(6, 5, 1)
        self.norm = nn.BatchNorm2D(6, **norm)

    def forward(self, x: Any) -> list[Any]:
        a = self.stem(x)
        return [self.head(F.relu(self.norm(self.joint(paddle.concat([self.body(a), a], axis=1)))))]


class Positions(nn.Layer):
    """What is added to a convolution has its own number at each position."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = block(3, 8), block(8, 8)
        self.joint, self.norm, self.head = nn.Conv2D(16, 6, 1, bias_attr=False), nn.BatchNorm2D(6), nn.Conv2D(6, 5, 1)
        self.place = self.create_parameter([1, 6, 32, 32])

    def forward(self, x: Any) -> list[Any]:
        a = self.stem(x)
        pooled = [F.adaptive_avg_pool2d(item, 1) for item in (self.body(a), a)]
        return [self.head(F.relu(self.norm(self.joint(paddle.concat(pooled, axis=1)) + self.place)))]


def groups_of(model: nn.Layer) -> ChannelGroups:
    for layer in model.sublayers():
        if isinstance(layer, nn.BatchNorm2D):
            layer._mean.set_value(paddle.randn(layer._mean.shape))
            layer._variance.set_value(paddle.uniform(layer._variance.shape, min=0.5, max=2.0))
            if layer.weight is not None:
                layer.weight.set_value(paddle.uniform([layer.weight.shape[0]], min=0.5, max=2.0))
    return find_groups(captured(model), 32, lambda o: o[0])


@pytest.fixture(scope="module")
def groups() -> ChannelGroups:
    paddle.seed(5)
    return groups_of(Joining())


@pytest.fixture(scope="module")
def tails(groups: ChannelGroups) -> Mapping[str, Tail]:
    return {tail.group: tail for tail in find_tails(groups, groups.by_name, lambda o: o[0])}


def images() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype("float32")


def test_what_is_summed(groups: ChannelGroups, tails: Mapping[str, Tail]) -> None:
    """All that a masked layer reads; of a joined one what stays and what is masked; nothing of a grouped one."""
    sums = {name: {made.node.name: made for made in tail.sums} for name, tail in tails.items()}
    pieces = {
        name: {node: [(s.value.name, s.gate is not None) for s in made.sources] for node, made in of.items()}
        for name, of in sums.items()
    }
    whole = {name: [node for node, made in of.items() if made.whole] for name, of in sums.items()}
    two = ("stem.0", "down.0", "linear.0")
    assert {name: len(of) for name, of in sums.items()} == dict.fromkeys(tails, 1) | dict.fromkeys(two, 2)
    assert whole == {
        "stem.0": ["down.0"],
        "down.0": ["linear.0"],
        "linear.0": ["deep.0"],
        "deep.0": ["up.0"],
        "mixed": ["head"],
    }
    assert pieces["stem.0"]["up.0"] == [("stem.2", True)]
    assert [masked for _, masked in pieces["down.0"]["up.0"]] == [True, False]  # what is enlarged, and the shortcut
    assert [gate.value.name for gate in tails["stem.0"].gates] == ["gate/mixed/input"]
    macs = {node.name: groups.node_macs(node) for node in groups.model.eval_graph.nodes}
    last = macs["mixed"] + macs["head"]
    assert tails["deep.0"].macs == last and tails["deep.0"].leaving_macs == macs["up.0"]
    assert tails["linear.0"].macs == last + round(macs["up.0"] * 16 / 36)
    assert tails["linear.0"].leaving_macs == macs["deep.0"]


ENGINES = [PaddleExecutor(), OnnxExecutor(1)]


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
def test_points_equal_the_pruned_model(groups: ChannelGroups, tails: Mapping[str, Tail], engine: Any) -> None:
    x, order = images(), np.random.default_rng(1)
    tensors = dict(groups.model.tensors())
    values, output = Head(groups, list(tails.values()), engine, lambda o: o[0]).run(x)
    before = {name: array.copy() for name, array in values.items()}
    for name, tail in tails.items():
        width = groups.by_name[name].width
        channels = order.permutation(width)
        kept = [{name: np.sort(channels[:left])} for left in (width - 1, width // 2, 2, 1)]
        alive = [groups.keep(few) for few in kept]
        points = tail.ready(engine, tensors)
        made = [array.copy() for array in points(values, output, alive)]
        for array, few in zip(made, kept, strict=True):
            assert difference([array], outputs(cut(groups, few), x)[:1]) < 1e-5, name
        for start in (1, 3):
            again = list(points(values, output, alive, start))
            assert len(again) == len(alive) - start
            assert all(np.array_equal(one, other) for one, other in zip(made[start:], again)), name
    assert all(np.array_equal(values[name], array) for name, array in before.items())


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
@pytest.mark.parametrize(
    "build",
    [
        SharedFilter,
        BothSides,
        partial(JoinedOutput, False),
        partial(JoinedOutput, True),
        partial(OtherNorm, weight_attr=False),
        partial(OtherNorm, bias_attr=False),
        partial(OtherNorm, use_global_stats=False),
        Positions,
    ],
    ids=["shared", "both sides", "output", "norm output", "no scale", "no bias", "batch statistics", "positions"],
)
def test_what_is_no_plain_sum(build: Callable[[], nn.Layer], engine: Any) -> None:
    paddle.seed(7)
    groups, x = groups_of(build()), images()
    batch_statistics = isinstance(build, partial) and "use_global_stats" in build.keywords
    tails = find_tails(groups, groups.by_name, lambda o: o[0])
    if batch_statistics and engine.name == "onnxruntime":
        with pytest.raises(UserError, match="statistics of its batch"):
            Head(groups, tails, engine, lambda o: o[0])
        return
    values, output = Head(groups, tails, engine, lambda o: o[0]).run(x)
    for tail in tails:
        gated = insert_gates(groups, [tail.group])
        whole = PaddleExecutor().prepare(gated.graph, dict(groups.model.tensors()))
        alive = [groups.keep({tail.group: np.arange(left)}) for left in (5, 2)]
        for array, stays in zip(tail.ready(engine, dict(groups.model.tensors()))(values, output, alive), alive):
            expected = next(iter(whole({groups.model.eval_graph.inputs[0].name: x, **gated.feeds(stays)}).values()))
            assert difference([array], [expected]) < 1e-5, tail.group
