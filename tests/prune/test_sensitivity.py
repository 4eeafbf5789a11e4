"""Sensitivity against brute force, its state on disk, and what it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn
from prune.matrix import captured, difference, outputs, run_gated

import paddleseg_slim.models  # noqa: F401
from paddleseg_slim.deploy.executor import OnnxExecutor
from paddleseg_slim.errors import UserError
from paddleseg_slim.graph.executor import PaddleExecutor
from paddleseg_slim.metrics import SegmentationAccumulator
from paddleseg_slim.models.zoo import ZOO, build
from paddleseg_slim.prune.channels import find_groups
from paddleseg_slim.prune.criteria import keep_best
from paddleseg_slim.prune.curves import Curves, GroupCurve
from paddleseg_slim.prune.curves_picture import draw
from paddleseg_slim.prune.divergence import DivergenceCounts, calibrated
from paddleseg_slim.prune.ranking import scores
from paddleseg_slim.prune.sensitivity import Data, analyse, weights_fingerprint
from paddleseg_slim.prune.surgery import cut
from paddleseg_slim.prune.tails import Head, find_tails, rounds_of
from paddleseg_slim.prune.taylor import gate_gradients, taylor_curves

CLASSES = 3
RATIOS = (0.25, 0.5, 0.75)


class Net(nn.Layer):
    """Small, with a residual, a gate by another branch and a concat."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2D(3, 8, 3, padding=1), nn.BatchNorm2D(8), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2D(8, 8, 3, padding=1), nn.BatchNorm2D(8))
        self.gate = nn.Conv2D(8, 8, 1)
        self.side = nn.Conv2D(8, 4, 1)
        self.head = nn.Conv2D(12, CLASSES, 1)

    def forward(self, x: Any) -> list[Any]:
        a = self.stem(x)
        b = nn.functional.relu(self.body(a) + a)
        b = b * nn.functional.sigmoid(self.gate(b.mean([2, 3], keepdim=True)))
        return [self.head(paddle.concat([b, nn.functional.silu(self.side(a))], axis=1))]


@pytest.fixture(scope="module")
def groups() -> Any:
    paddle.seed(3)
    return find_groups(captured(Net()), 32)


def images(count: int = 6) -> list[np.ndarray]:
    return [np.random.default_rng(i).standard_normal((2, 3, 16, 16)).astype("float32") for i in range(count)]


def data(groups: Any, count: int = 6, fail_at: int | None = None) -> Data:
    """Labels are what the model predicts, a part of them changed: a trained model, with room to fall."""

    def batches(start: int) -> Iterator[dict[str, np.ndarray]]:
        for number in range(start, count):
            if number == fail_at:
                raise KeyboardInterrupt
            x = images(count)[number]
            label = outputs(groups.model, x)[0].argmax(1)
            label[:, :4] = 0
            yield {"img": x, "label": label}

    return Data(batches, count, lambda: SegmentationAccumulator(CLASSES), lambda o: o[0], 4)


def test_equals_one_evaluation_for_each_point(groups: Any) -> None:
    importance = scores(groups, "l1_norm")
    curves = analyse(groups, importance, data(groups), PaddleExecutor(), ratios=RATIOS)
    assert set(curves.groups) == {g.name for g in groups.groups} and len(curves.groups) == 2
    source = data(groups)
    for name, curve in curves.groups.items():
        for kept, loss in zip(curve.kept, curve.losses):
            alive = groups.keep({name: keep_best(importance[name], kept)})
            metric = source.accumulator()
            for batch in source.batches(0):
                metric.update(run_gated(groups, alive, batch["img"])[0], batch)
            expected = (curves.baseline - metric.result().score) / curves.baseline
            assert loss == pytest.approx(expected, abs=1e-6)
    assert any(max(c.losses) > 0.01 for c in curves.groups.values())


def test_points_side_by_side_are_the_same(groups: Any) -> None:
    importance = scores(groups, "l1_norm")
    one = analyse(groups, importance, data(groups, 2), PaddleExecutor(), ratios=RATIOS)
    assert analyse(groups, importance, data(groups, 2), PaddleExecutor(), ratios=RATIOS, workers=3) == one


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n == "fast_scnn" else [pytest.mark.slow]) for n in ZOO])
def test_tails_equal_the_whole_gated_model(name: str) -> None:
    """Depthwise, pyramids, joined shortcuts, attention, layer norms, outputs whose sizes are computed."""
    paddle.seed(1)
    found = find_groups(captured(build(name, 4)), 64, lambda o: o[0])
    chosen = [g.name for g in found.groups][:: max(1, len(found.groups) // 5)]
    tails, tensors = find_tails(found, chosen, lambda o: o[0]), dict(found.model.tensors())
    x = np.random.default_rng(0).standard_normal((2, 3, 64, 64)).astype("float32")
    values, output = Head(found, tails, PaddleExecutor(), lambda o: o[0]).run(x)
    assert difference([output], outputs(found.model, x)[:1]) < 1e-5
    whole = found.macs(found.widths)
    macs = [tail.macs + tail.leaving_macs for tail in tails if tail.graph]  # an auxiliary head has none
    assert all(0 < count < whole for count in macs) and min(macs) < 0.9 * whole
    assert len(rounds_of(found, tails, 2)) == 1 < len(rounds_of(found, tails, 4096))
    order = np.random.default_rng(1)
    for tail, (engine, sized) in product(tails, ((PaddleExecutor(), False), (OnnxExecutor(1), True))):
        channels = order.permutation(found.by_name[tail.group].width)
        kept = [{tail.group: np.sort(channels[: max(1, len(channels) // parts)])} for parts in (2, 4)]
        points = tail.ready(engine, tensors, sized)(values, output, [found.keep(few) for few in kept])
        for gated, few in zip(points, kept, strict=True):
            assert difference([gated], outputs(cut(found, few), x)[:1]) < 1e-4, tail.group
    again, _ = Head(found, tails, PaddleExecutor(), lambda o: o[0]).run(x)
    assert all(np.array_equal(values[name], again[name]) for name in values)  # no point has changed them


def test_images_of_several_sizes() -> None:
    """Engines are made for the size that comes first, and for any size when another one comes."""
    paddle.seed(3)
    groups, prepared = find_groups(captured(Net()), 16), []

    class Engine(OnnxExecutor):
        def prepare(self, graph: Any, tensors: Any, shapes: Any = None) -> Any:
            if len(graph.nodes) > 1:  # not one that lets channels leave a sum
                prepared.append(None if shapes is None else [shape for shape in shapes.values() if len(shape) == 4])
            return super().prepare(graph, tensors, shapes)

    def batches(start: int) -> Iterator[dict[str, np.ndarray]]:
        for number, size in list(enumerate((16, 16, 24, 16)))[start:]:
            x = np.random.default_rng(number).standard_normal((2, 3, size, size)).astype("float32")
            label = outputs(groups.model, x)[0].argmax(1)
            label[:, :4] = 0
            yield {"img": x, "label": label}

    several = Data(batches, 4, lambda: SegmentationAccumulator(CLASSES), lambda o: o[0], 2)
    importance = scores(groups, "l1_norm")
    expected = analyse(groups, importance, several, PaddleExecutor(), ratios=RATIOS)
    got = analyse(groups, importance, several, Engine(1), ratios=RATIOS)
    for name, curve in expected.groups.items():
        assert got.groups[name].losses == pytest.approx(curve.losses, abs=2e-3)  # a pixel between two classes
    tails = len(groups.groups) + 1
    assert len(prepared) == 2 * tails and prepared[tails:] == [None] * tails
    assert all(shape[0] == -1 and shape[2:] == (16, 16) for shapes in prepared[:tails] for shape in shapes)


def test_rounds_are_the_same_as_one(groups: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Little memory: every group is a round of its own, also when killed in the second."""
    importance = scores(groups, "l1_norm")
    whole = analyse(groups, importance, data(groups), PaddleExecutor(), ratios=RATIOS)
    monkeypatch.setattr("paddleseg_slim.prune.tails._MOST_BYTES", 0)
    monkeypatch.setattr("paddleseg_slim.prune.sensitivity._SAVE_EVERY_SECONDS", 0.0)
    state, seen = tmp_path / "state.npz", []

    def killed(done: int, of: int) -> None:
        seen.append((done, of))
        if done == 8:
            raise KeyboardInterrupt

    settings = {"ratios": RATIOS, "state": state}
    with pytest.raises(KeyboardInterrupt):
        analyse(groups, importance, data(groups), PaddleExecutor(), progress=killed, **settings)
    assert seen[-1] == (8, 12) and state.is_file()
    assert analyse(groups, importance, data(groups), PaddleExecutor(), **settings) == whole


@pytest.mark.parametrize("top", [0.5, 0.8, 3.0])
def test_a_divergence_tells_the_loss(top: float) -> None:
    """Small losses, which are lost in the noise of few images, are told by the large ones; none is taken for free."""
    divergences = np.geomspace(1e-4, 2, 80)
    expected = top * (1 - np.exp(-1.1 * divergences / top))
    noise = 0.03 * np.sqrt(divergences) * np.random.default_rng(0).normal(size=80)
    assert (expected + noise)[:40].min() < 0  # as if pruning helped
    told = calibrated(divergences, expected + noise)
    np.testing.assert_allclose(told, expected, rtol=0.2)
    assert (np.diff(told) > 0).all()


@pytest.mark.parametrize("losses", [[0.0, 0.0, 0.0], [-0.1, 0.0, -0.2]])
def test_where_nothing_is_lost_the_divergence_orders(losses: list[float]) -> None:
    told = calibrated(np.array([0.3, 0.0, 0.1]), np.array(losses))
    assert told[0] > told[2] > told[1] == 0 and told[0] < 1e-5
    assert (calibrated(np.zeros(3), np.array(losses)) == 0).all()


def test_fast_ranks_as_exact_does(groups: Any) -> None:
    importance = scores(groups, "l1_norm")
    exact = analyse(groups, importance, data(groups), PaddleExecutor(), ratios=RATIOS)
    fast = analyse(groups, importance, data(groups, 2), PaddleExecutor(), mode="fast", ratios=RATIOS)
    assert fast.metric == exact.metric == "mIoU" and fast.images == 4
    first, second = ([(c.losses[-1], name) for name, c in curves.groups.items()] for curves in (exact, fast))
    assert [n for _, n in sorted(first)] == [n for _, n in sorted(second)]
    for name, curve in fast.groups.items():
        assert np.all(np.diff(curve.losses) >= 0)  # fewer channels, more divergence
        assert np.allclose(curve.losses, exact.groups[name].losses, atol=0.25)


def test_killed_and_resumed(groups: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paddleseg_slim.prune.sensitivity._SAVE_EVERY_SECONDS", 0.0)
    importance, state = scores(groups, "l1_norm"), tmp_path / "state.npz"
    whole = analyse(groups, importance, data(groups), PaddleExecutor(), ratios=RATIOS)
    with pytest.raises(KeyboardInterrupt):
        analyse(groups, importance, data(groups, fail_at=4), PaddleExecutor(), ratios=RATIOS, state=state)
    assert state.is_file()
    seen: list[int] = []
    again = analyse(
        groups, importance, data(groups), PaddleExecutor(), ratios=RATIOS, state=state,
        progress=lambda done, total: seen.append(done),
    )  # fmt: skip
    assert seen == [5, 6] and again == whole and not state.exists()


def test_state_of_another_analysis_is_refused(groups: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paddleseg_slim.prune.sensitivity._SAVE_EVERY_SECONDS", 0.0)
    importance, state = scores(groups, "l1_norm"), tmp_path / "state.npz"

    def run(weights: str, fail_at: int | None = None) -> None:
        source = data(groups, fail_at=fail_at)
        analyse(groups, importance, source, PaddleExecutor(), state=state, fingerprint={"weights": weights})

    with pytest.raises(KeyboardInterrupt):
        run("a", fail_at=2)
    with pytest.raises(UserError, match="other weights"):
        run("b")
    with monkeypatch.context() as few, pytest.raises(UserError, match="another version"):
        few.setattr("paddleseg_slim.prune.tails._MOST_BYTES", 0)  # other rounds: batches are counted in another order
        run("a")
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(UserError, match="damaged"):
        run("a")


def test_an_untrained_model_is_refused(groups: Any) -> None:
    def batches(start: int) -> Iterator[dict[str, np.ndarray]]:
        random = np.random.default_rng(0)
        for x in images(2)[start:]:
            yield {"img": x, "label": random.integers(0, CLASSES, (2, 16, 16))}

    chance = Data(batches, 2, lambda: SegmentationAccumulator(CLASSES), lambda o: o[0], 4)
    with pytest.raises(UserError, match="not trained"):
        analyse(groups, scores(groups, "l1_norm"), chance, PaddleExecutor(), ratios=RATIOS)


def test_divergence_needs_no_labels(groups: Any) -> None:
    free = Data(lambda s: iter([{"img": x} for x in images(2)[s:]]), 2, DivergenceCounts, lambda o: o[0], 4)
    curves = analyse(groups, scores(groups, "l1_norm"), free, PaddleExecutor(), ratios=RATIOS)
    assert curves.baseline == 1.0
    for curve in curves.groups.values():
        assert min(curve.losses) >= 0 and max(curve.losses) > 0


def test_gate_gradients_are_gradients(groups: Any) -> None:
    """Against finite differences of the loss, with labels drawn in the same way."""
    x = images(1)[0][:1]
    gradients = gate_gradients(groups, [x], lambda o: o[0], seed=5)
    logits = outputs(groups.model, x)[0]
    labels = (logits + np.random.default_rng(5).gumbel(size=logits.shape)).argmax(1)

    def loss(model_out: np.ndarray) -> float:
        shifted = model_out.astype(np.float64) - model_out.max(1, keepdims=True)
        log = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
        return float(-np.take_along_axis(log, labels[:, None], 1).mean())

    name = next(g.name for g in groups.groups if g.name.startswith("side"))
    channel, step = 1, 0.02
    from paddleseg_slim.graph.run import Plan
    from paddleseg_slim.prune.gates import insert_gates

    gated = insert_gates(groups)
    plan = Plan(gated.graph)
    tables = [(slot, {n: groups.model.tensor(n)}, n) for slot, n in plan.parameters]
    ends = []
    for sign in (-1, 1):
        feeds = gated.feeds(groups.keep({}))
        for gate in gated.of(name):
            feeds[gate.value.name] += sign * step * (gate.components == groups.by_name[name].components[channel])
        inputs = [paddle.to_tensor(x)] + [paddle.to_tensor(feeds[v.name]) for v in gated.graph.inputs[1:]]
        ends.append(loss(plan.run(inputs, tables)[0].numpy()))
    assert gradients[name][0, channel] == pytest.approx((ends[1] - ends[0]) / (2 * step), rel=2e-2, abs=1e-5)
    both = gate_gradients(groups, [x, images(2)[1][:1]], lambda o: o[0], seed=5, batch_size=2)
    assert both[name].shape == (2, groups.by_name[name].width)
    curves = taylor_curves(groups, gradients, scores(groups, "fisher", gradients))
    assert set(curves.groups) == {g.name for g in groups.groups}


def test_curves_survive_the_file_and_stale_ones_are_refused(groups: Any, tmp_path: Path) -> None:
    curve = GroupCurve(8, [6, 4, 2], [0.02, -0.01, 0.4], list(range(8)))
    kept, losses = curve.fitted()
    assert kept.tolist() == [2, 4, 6, 8] and np.all(np.diff(losses) <= 0) and losses[-1] == 0 and losses.min() >= 0
    assert curve.loss_at(np.array([1, 2, 3, 8])).tolist() == pytest.approx([0.5975, 0.4, 0.2025, 0.0], abs=0.02)
    stamp = {"weights": weights_fingerprint(groups), "data": "d"}
    curves = Curves("exact", "mIoU", 0.8, 10, {"a": curve}, stamp)
    path = tmp_path / "sensitivities.json"
    curves.write(path)
    assert Curves.read(path) == curves
    Curves.read(path).check(stamp, path)
    with pytest.raises(UserError, match="other data"):
        Curves.read(path).check({**stamp, "data": "e"}, path)
    draw(curves, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 5000
