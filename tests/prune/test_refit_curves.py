"""Channels that others can stand in for, and sensitivity with the layers behind refitted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle import nn
from prune.matrix import captured
from prune.test_reconstruct import images, run, set_random_norms

from paddleseg_slim.errors import UserError
from paddleseg_slim.graph import GraphLayer
from paddleseg_slim.prune import patches as patches_module
from paddleseg_slim.prune import refit_curves as refit_curves_module
from paddleseg_slim.prune.channels import ChannelGroups, find_groups
from paddleseg_slim.prune.criteria import keep_best
from paddleseg_slim.prune.elimination import elimination, eliminations
from paddleseg_slim.prune.ranking import ranking_curves, scores
from paddleseg_slim.prune.readers import Reader, readers_of
from paddleseg_slim.prune.reconstruct import reconstruct
from paddleseg_slim.prune.refit_curves import refit_curves
from paddleseg_slim.prune.surgery import cut

TWINS = {3: 1, 6: 4}
"""Channels that equal another one."""


class Twins(nn.Layer):
    """The first layer makes some channels twice; the second one reads them by other weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2D(3, 8, 3, padding=1, bias_attr=False)
        self.norm = nn.BatchNorm2D(8)
        self.second = nn.Conv2D(8, 6, 3, padding=1, bias_attr=False)
        self.norm2 = nn.BatchNorm2D(6)
        self.depthwise = nn.Conv2D(6, 6, 3, padding=1, groups=6, bias_attr=False)
        self.last = nn.Conv2D(6, 4, 1)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = nn.functional.relu(self.norm(self.first(x)))
        return self.last(self.depthwise(nn.functional.relu(self.norm2(self.second(x)))))


@pytest.fixture(scope="module")
def twins() -> ChannelGroups:
    paddle.seed(0)
    net = Twins()
    set_random_norms(net)
    for tensor in (net.first.weight, net.norm.weight, net.norm.bias, net.norm._mean, net.norm._variance):
        array = tensor.numpy()
        for copy, of in TWINS.items():
            array[copy] = array[of]
        tensor.set_value(array)
    return find_groups(captured(net), 20)


@pytest.fixture(scope="module")
def readers(twins: ChannelGroups) -> dict[str, list[Reader]]:
    return readers_of(twins, images())


def test_readers_look_through_depthwise_convolutions(readers: dict[str, list[Reader]]) -> None:
    assert {name: [r.layer.node.name for r in own] for name, own in readers.items()} == {
        "first": ["second"],
        "second": ["last"],
    }
    (reader,) = readers["first"]
    assert reader.rows.shape == (8, 9) and reader.offset is not None and reader.offset[1] == 1
    (behind,) = readers["second"]
    assert behind.rows.shape == (6, 1) and behind.offset is not None and behind.offset == ("last.bias", -1)


def test_twins_go_first(readers: dict[str, list[Reader]]) -> None:
    found = elimination(readers["first"])
    first, second, third = np.argsort(found, kind="stable")[:3]
    pairs = [set(pair) for pair in TWINS.items()]
    assert {int(first), int(second)} & pairs[0] and {int(first), int(second)} & pairs[1]
    assert found[second] < 0.05 * found[third]
    assert len(np.unique(found)) == 8


def test_the_cost_is_what_is_missing_after_the_best_fit(readers: dict[str, list[Reader]]) -> None:
    (reader,) = readers["second"]
    found = elimination([reader])
    lowest = int(found.argmin())
    left = np.setdiff1d(np.arange(6), [lowest])
    # the pull keeps numbers finite: it is a small part of the covariance, and counted in both
    (covariance,), (weight,) = reader.covariance, reader.weight
    among, across = covariance[np.ix_(left, left)], covariance[left, lowest]
    unexplained = covariance[lowest, lowest] - across @ np.linalg.solve(among, across)
    expected = unexplained * np.square(weight[lowest]).sum() / reader.variance
    np.testing.assert_allclose(found[lowest], expected, rtol=1e-9)


def test_curves_know_that_the_readers_make_up(twins: ChannelGroups, readers: dict[str, list[Reader]]) -> None:
    importance = eliminations(readers)
    curves = refit_curves(twins, importance, readers, images(), ratios=(0.25, 0.5))
    assert curves.groups["first"].kept == [6, 4]
    twice, more = curves.groups["first"].losses
    assert twice < 0.05 * more

    keep = np.sort(np.argsort(importance["first"])[4:])
    pruned = cut(twins, {"first": keep})
    divergence = divergence_of(pruned, twins.model)
    reconstruct(pruned, twins.model, images(), pruned.record[-1]["kept"])
    assert divergence_of(pruned, twins.model) < 0.5 * divergence
    np.testing.assert_allclose(divergence_of(pruned, twins.model), more, rtol=0.25)


def divergence_of(model: GraphLayer, dense: GraphLayer) -> float:
    """Mean Kullback-Leibler divergence of ``model`` from ``dense`` over the images, by hand."""
    total = 0.0
    for image in images():
        new, old = run(model, image).astype(np.float64), run(dense, image).astype(np.float64)
        new, old = (z - np.log(np.exp(z).sum(axis=1, keepdims=True)) for z in (new, old))
        total += float((np.exp(old) * (old - new)).sum(axis=1).mean())
    return total / len(images())


def test_stopped_and_resumed(twins: ChannelGroups, readers: dict[str, list[Reader]], tmp_path: Path) -> None:
    importance, state = eliminations(readers), tmp_path / "state.json"
    whole = refit_curves(twins, importance, readers, images(), fingerprint={"weights": "a"})

    def stop(done: int, total: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        refit_curves(twins, importance, readers, images(), state=state, fingerprint={"weights": "a"}, progress=stop)
    with pytest.raises(UserError, match="other weights"):
        refit_curves(twins, importance, readers, images(), state=state, fingerprint={"weights": "b"})
    resumed = refit_curves(twins, importance, readers, images(), state=state, fingerprint={"weights": "a"})
    assert resumed == whole and not state.exists()
    state.write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="damaged"):
        refit_curves(twins, importance, readers, images(), state=state)


def test_the_criterion_ranks_over_all_groups(twins: ChannelGroups, readers: dict[str, list[Reader]]) -> None:
    importance = scores(twins, "obs", elimination=eliminations(readers))
    curves = ranking_curves(twins, importance, "obs")
    assert set(curves.groups) == {"first", "second"}
    assert curves.groups["first"].losses[1] < 0.05 * curves.groups["first"].losses[2]
    assert scores(twins, "obs") == {}  # nothing was looked at: no group is judged


@pytest.mark.parametrize("second", ["wide", "transposed", "in groups"])
def test_readers_that_are_looked_at_channel_by_channel(second: str, monkeypatch: pytest.MonkeyPatch) -> None:
    paddle.seed(0)
    first = nn.Conv2D(3, 8, 3, bias_attr=False)
    weight = first.weight.numpy()
    weight[1], weight[5] = 3 * weight[0], -2 * weight[4]  # in two groups of four, the second channel of both
    first.weight.set_value(weight)
    kinds = {"transposed": lambda: nn.Conv2DTranspose(8, 4, 3), "in groups": lambda: nn.Conv2D(8, 4, 3, groups=2)}
    behind = kinds.get(second, lambda: nn.Conv2D(8, 4, 3))()
    if second == "wide":
        monkeypatch.setattr(patches_module, "MOST_INPUTS", 1)
    groups = find_groups(captured(nn.Sequential(first, behind)), 20)
    readers = readers_of(groups, images())
    (reader,) = readers["0"]
    assert reader.rows.shape == ((4, 9) if second == "in groups" else (8, 1))
    importance = eliminations(readers)
    assert int(importance["0"].argmin()) in (0, 1, 4, 5)
    curves = refit_curves(groups, importance, readers, images(), ratios=(0.25, 0.5))
    assert curves.groups["0"].losses[0] < 1e-4 < curves.groups["0"].losses[1]


def test_curves_know_how_a_transposed_convolution_makes_up_for_means() -> None:
    paddle.seed(0)
    net = nn.Sequential(nn.Conv2D(3, 16, 3), nn.ReLU(), nn.Conv2DTranspose(16, 8, 2, stride=2))
    net[0].bias.set_value(np.full(16, 4, "float32"))
    groups = find_groups(captured(net), 20)
    readers = readers_of(groups, images())
    importance = eliminations(readers)
    (expected,) = refit_curves(groups, importance, readers, images(), ratios=(0.5,)).groups["0"].losses
    pruned = cut(groups, {"0": np.sort(np.argsort(importance["0"])[8:])})
    reconstruct(pruned, groups.model, images(), pruned.record[-1]["kept"])
    np.testing.assert_allclose(divergence_of(pruned, groups.model), expected, rtol=0.25)
    assert expected < 0.06


def test_few_images_at_a_time_give_the_same(
    twins: ChannelGroups, readers: dict[str, list[Reader]], monkeypatch: pytest.MonkeyPatch
) -> None:
    importance = eliminations(readers)
    whole = refit_curves(twins, importance, readers, images())
    monkeypatch.setattr(refit_curves_module, "_TOGETHER", 5)
    parts = refit_curves(twins, importance, readers, images())
    for name, curve in whole.groups.items():
        np.testing.assert_allclose(parts.groups[name].losses, curve.losses, rtol=1e-4, atol=1e-7)


class Mean(nn.Layer):
    """Who reads the first layer's channels: a convolution, and a mean over them as in spatial attention."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Conv2D(3, 8, 3), nn.Conv2D(8, 4, 1), nn.Conv2D(1, 4, 1)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = nn.functional.relu(self.first(x))
        return 0.01 * self.second(x) + 5.0 * self.last(x.mean(axis=1, keepdim=True))


class Shared(nn.Layer):
    """Who reads them: a convolution of little weight, and one that reads something else by the same weight, too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.other = nn.Conv2D(3, 8, 3), nn.Conv2D(3, 8, 3)
        self.second, self.head = nn.Conv2D(8, 4, 1), nn.Conv2D(8, 4, 1)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        one, two = nn.functional.relu(self.first(x)), nn.functional.relu(self.other(x))
        return 0.01 * self.second(one) + 5.0 * self.head(one) + 5.0 * self.head(two)


@pytest.mark.parametrize("kind", [Mean, Shared])
def test_who_cannot_make_up_sees_the_channels_gone(kind: type[nn.Layer]) -> None:
    paddle.seed(0)
    groups = find_groups(captured(kind()), 20)
    readers = readers_of(groups, images())
    assert [reader.layer.node.name for reader in readers["first"]] == ["second"]
    importance = eliminations(readers)
    (expected,) = refit_curves(groups, importance, readers, images(), ratios=(0.5,)).groups["first"].losses
    keep = np.sort(np.argsort(importance["first"], kind="stable")[4:])
    pruned = cut(groups, {"first": keep})
    reconstruct(pruned, groups.model, images(), pruned.record[-1]["kept"])
    np.testing.assert_allclose(divergence_of(pruned, groups.model), expected, rtol=0.6)


def test_points_remove_what_is_cut_among_equals(twins: ChannelGroups, readers: dict[str, list[Reader]]) -> None:
    importance = {"first": np.array([1.0, 2, 0, 0, 0, 2, 0, 1])}
    curve = refit_curves(twins, importance, readers, images(2), ratios=(0.25, 0.5)).groups["first"]
    ranked = ranking_curves(twins, importance, "obs").groups["first"]
    for kept in (6, 4):
        assert sorted(curve.order[-kept:]) == keep_best(importance["first"], kept).tolist()
    assert ranked.order == curve.order
    other = {"first": np.array([1.0, 2, 0.2, 0.1, 0, 2, 0, 1])}  # 4 and 6 go, then 2 and 3, without ties
    same = refit_curves(twins, other, readers, images(2), ratios=(0.25, 0.5)).groups["first"]
    np.testing.assert_allclose(same.losses, curve.losses)


class Branches(nn.Layer):
    """Two convolutions read the first layer's channels, each behind a normalisation; the second one's output counts."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.norm2 = nn.Conv2D(3, 8, 3), nn.BatchNorm2D(8), nn.BatchNorm2D(8)
        self.one, self.two = nn.Conv2D(8, 4, 1), nn.Conv2D(8, 4, 1)

    def forward(self, x: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        x = self.first(x)
        one, two = self.one(self.norm(x)), self.two(self.norm2(x))
        return one + two, two


def test_a_layer_that_reads_nothing_does_not_decide() -> None:
    paddle.seed(0)
    model = captured(Branches())
    for name in ("norm2.weight", "norm2.bias"):
        model.set_tensor(name, np.zeros(8, "float32"))
    one, two = readers_of(find_groups(model, 20), images())["first"]
    np.testing.assert_array_equal(elimination([one, two]).argsort(), elimination([one]).argsort())
    assert elimination([two]).max() < 1e-3


def test_a_layer_whose_output_does_not_count_has_no_vote() -> None:
    paddle.seed(0)
    groups = find_groups(captured(Branches()), 20, lambda outputs: outputs[1])
    assert [reader.layer.node.name for reader in readers_of(groups, images())["first"]] == ["two"]


def test_a_layer_that_reads_constants_does_not_decide() -> None:
    paddle.seed(0)
    net = nn.Sequential(nn.Conv2D(3, 8, 3), nn.BatchNorm2D(8), nn.ReLU(), nn.Conv2D(8, 4, 1))
    model = captured(net)
    model.set_tensor("1.weight", np.zeros(8, "float32"))
    model.set_tensor("1.bias", np.arange(1, 9, dtype="float32"))
    readers = readers_of(find_groups(model, 20), images())
    assert elimination(readers["0"]).max() < 1e-6
