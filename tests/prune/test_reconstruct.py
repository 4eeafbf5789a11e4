"""Layers behind removed channels are refitted by least squares."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn
from prune.matrix import captured

from paddleseg_slim.cli.refit import of_one_size
from paddleseg_slim.graph import GraphLayer
from paddleseg_slim.prune import patches as patches_module
from paddleseg_slim.prune.by_channel import by_channel_of
from paddleseg_slim.prune.channels import find_groups
from paddleseg_slim.prune.patches import patches_of
from paddleseg_slim.prune.reconstruct import reconstruct
from paddleseg_slim.prune.running import images_that_fit
from paddleseg_slim.prune.surgery import cut


def images(count: int = 16, size: int = 20) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.normal(size=(1, 3, size, size)).astype("float32") for _ in range(count)]


def run(model: GraphLayer, image: np.ndarray) -> np.ndarray:
    model.eval()
    with paddle.no_grad():
        return model(paddle.to_tensor(image)).numpy()


def set_random_norms(net: nn.Layer, seed: int = 0) -> None:
    random = np.random.default_rng(seed)
    for layer in net.sublayers():
        if isinstance(layer, nn.BatchNorm2D):
            count = layer.weight.shape[0]
            for tensor, low, high in (
                (layer.weight, 0.5, 1.5), (layer.bias, -0.5, 0.5), (layer._mean, -0.5, 0.5), (layer._variance, 0.5, 2),
            ):  # fmt: skip
                tensor.set_value(random.uniform(low, high, count).astype("float32"))


def error(model: GraphLayer, dense: GraphLayer, batch: np.ndarray) -> float:
    wanted = run(dense, batch)
    return float(np.square(run(model, batch) - wanted).mean() / wanted.var())


@pytest.mark.parametrize(
    "options",
    [
        {"padding": 1},
        {"stride": 2, "padding": "SAME"},
        {"padding": "VALID", "dilation": 2},
        {"padding": [0, 2, 1, 3], "stride": (1, 2)},
        {"padding": 2, "dilation": (2, 1), "groups": 2},
    ],
    ids=str,
)
def test_patches_times_weights_is_the_convolution(options: dict[str, Any]) -> None:
    paddle.seed(0)
    layer = nn.Sequential(nn.Conv2D(3, 4, 1), nn.Conv2D(4, 6, (3, 2), bias_attr=False, **options))
    model = captured(layer)
    node = next(n for n in model.eval_graph.nodes if n.name == "1")
    patches = patches_of(node, model.eval_graph)
    assert patches is not None
    x = np.random.default_rng(0).normal(size=(2, 4, 9, 12)).astype("float32")
    y = layer[1](paddle.to_tensor(x)).numpy()
    stay = [0, 2, 3, 5]
    rows, wanted = patches.sample(x, y, stay, np.random.default_rng(0), 2)
    matrices = patches.matrices(layer[1].weight.numpy())
    result = np.concatenate(list(rows @ matrices), axis=1)[:, stay]
    np.testing.assert_allclose(result, np.concatenate(list(wanted), axis=1), atol=1e-5)
    np.testing.assert_array_equal(patches.weights(matrices, "float32"), layer[1].weight.numpy())


def test_layers_of_too_many_inputs_are_looked_at_channel_by_channel() -> None:
    for channels, patches in ((64, True), (300, False)):
        model = captured(nn.Sequential(nn.Conv2D(3, channels, 1), nn.Conv2D(channels, 2, 3)))
        node = next(n for n in model.eval_graph.nodes if n.name == "1")
        assert (patches_of(node, model.eval_graph) is not None) == patches
        assert by_channel_of(node, model.eval_graph) is not None


def test_a_layer_looked_at_channel_by_channel_makes_what_it_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its outputs are cut, too, and what is missing is made of the others and of a constant."""
    monkeypatch.setattr(patches_module, "MOST_INPUTS", 1)
    net = doubled(nn.Conv2D(8, 16, 3))
    paddle.seed(1)
    net.extend([nn.Sigmoid(), nn.Conv2D(16, 4, 1)])
    weight, bias = net[2].weight.numpy(), net[2].bias.numpy()
    weight[8:], bias[8:] = weight[:8], bias[:8]
    net[2].weight.set_value(weight), net[2].bias.set_value(bias)
    dense = captured(net)
    groups = find_groups(dense, 20)
    pruned = cut(groups, {groups.groups[0].name: [0, 1, 2, 3], groups.groups[1].name: list(range(8))})
    before = error(pruned, dense, images(1)[0])
    done = reconstruct(pruned, dense, images(), pruned.record[-1]["kept"])
    assert [layer.node for layer in done] == ["2", "4"]
    assert before > 0.1 and error(pruned, dense, images(1)[0]) < 1e-4


def doubled(second: nn.Layer) -> nn.Sequential:
    """A net whose channels 4 to 7 are those before them, times two."""
    paddle.seed(0)
    net = nn.Sequential(nn.Conv2D(3, 8, 3, padding=1, bias_attr=False), nn.ReLU(), second)
    weight = net[0].weight.numpy()
    net[0].weight.set_value(np.concatenate([weight[:4], 2 * weight[:4]]))
    return net


@pytest.mark.parametrize(
    "second",
    [
        lambda: nn.Conv2D(8, 6, 3, stride=2, padding="SAME"),
        lambda: nn.Conv2D(8, 6, 1, bias_attr=False),
        lambda: nn.Conv2DTranspose(8, 6, 3, stride=2),
        lambda: nn.Conv2DTranspose(8, 6, 2, stride=2, bias_attr=False),
    ],
)
def test_what_can_be_made_of_the_others_is_made_of_them(second: Any) -> None:
    dense = captured(doubled(second()))
    groups = find_groups(dense, 20)
    pruned = cut(groups, {groups.groups[0].name: [0, 1, 2, 3]})
    (batch,) = images(1)
    before = error(pruned, dense, batch)
    done = reconstruct(pruned, dense, images(), pruned.record[-1]["kept"])
    after = error(pruned, dense, batch)
    assert before > 0.1 and after < 1e-6
    assert [layer.node for layer in done] == ["2"]
    assert done[0].before > 0.1 > 1e-6 > done[0].after


def test_the_fit_is_that_of_numpy() -> None:
    paddle.seed(0)
    net = nn.Sequential(nn.Conv2D(3, 6, 3), nn.ReLU(), nn.Conv2D(6, 5, 1))
    dense = captured(net)
    groups = find_groups(dense, 20)
    pruned = cut(groups, {groups.groups[0].name: [0, 2, 3]})
    many = images(12)
    reconstruct(pruned, dense, many, pruned.record[-1]["kept"])
    with paddle.no_grad():
        hidden = net[:2](paddle.to_tensor(np.concatenate(many))).transpose([0, 2, 3, 1]).reshape([-1, 6]).numpy()
    wanted = hidden @ net[2].weight.numpy().reshape(5, 6).T + net[2].bias.numpy()
    inputs = np.concatenate([hidden[:, [0, 2, 3]], np.ones((len(hidden), 1))], axis=1)
    best = np.linalg.lstsq(inputs.astype(np.float64), wanted.astype(np.float64), rcond=None)[0]
    np.testing.assert_allclose(pruned.tensor("2.weight").numpy().reshape(5, 3).T, best[:3], atol=2e-3)
    np.testing.assert_allclose(pruned.tensor("2.bias").numpy(), best[3], atol=2e-3)


def without_constants(net: nn.Sequential) -> tuple[float, float]:
    """Errors before and after the refit when the first layer's channels from 5 on are constant and cut."""
    weight = net[0].weight.numpy()
    weight[5:] = 0
    net[0].weight.set_value(weight)
    dense = captured(net)
    groups = find_groups(dense, 20)
    pruned = cut(groups, {groups.groups[0].name: [0, 1, 2, 3, 4]})
    (batch,) = images(1)
    before = error(pruned, dense, batch)
    reconstruct(pruned, dense, images(), pruned.record[-1]["kept"])
    return before, error(pruned, dense, batch)


def test_channels_that_are_constant_move_into_the_bias_or_the_statistics() -> None:
    paddle.seed(0)
    net = nn.Sequential(
        nn.Conv2D(3, 8, 3), nn.Sigmoid(), nn.Conv2D(8, 8, 1, bias_attr=False), nn.BatchNorm2D(8), nn.ReLU(),
        nn.Conv2D(8, 4, 1),
    )  # fmt: skip
    set_random_norms(net)
    before, after = without_constants(net)
    assert before > 0.01 and after < 1e-6


def test_the_constant_behind_a_transposed_convolution_with_stride() -> None:
    """Each of its outputs is made by one of the four places of the kernel, here all alike for the constants."""
    paddle.seed(0)
    net = nn.Sequential(nn.Conv2D(3, 8, 3), nn.Sigmoid(), nn.Conv2DTranspose(8, 4, 2, stride=2))
    behind = net[2].weight.numpy()
    behind[5:] = behind[5:, :, :1, :1]
    net[2].weight.set_value(behind)
    before, after = without_constants(net)
    assert before > 0.01 and after < 1e-6


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 2, "stride": 2},
        {"kernel_size": (4, 3), "stride": (2, 1), "padding": 1},
        {"kernel_size": 3, "stride": 2, "dilation": 3},
        {"kernel_size": 1, "stride": 2},
        {"kernel_size": 3, "dilation": 2},
    ],
    ids=str,
)
def test_how_uneven_a_constant_comes_out_of_a_transposed_convolution(options: dict[str, Any]) -> None:
    paddle.seed(0)
    layer = nn.Conv2DTranspose(4, 5, bias_attr=False, **options)
    model = captured(nn.Sequential(nn.Conv2D(3, 4, 1), layer))
    found = by_channel_of(next(n for n in model.eval_graph.nodes if n.name == "1"), model.eval_graph)
    assert found is not None
    energy = 0.0
    for channel in range(4):
        ones = np.zeros((1, 4, 24, 24), "float32")
        ones[:, channel] = 1
        inner = layer(paddle.to_tensor(ones)).numpy()[0, :, 8:16, 8:16]  # of each kind of outputs equally many
        energy += float(inner.var(axis=(1, 2)).sum()) * int(np.prod(found.node.attrs["strides"]))
    weight = layer.weight.numpy().astype(np.float64)
    np.testing.assert_allclose(found.uneven(found.matrices(weight)), energy / np.square(weight).sum(), atol=1e-6)


@pytest.mark.parametrize("kernel", [2, 3, 4])
def test_means_that_come_out_of_a_transposed_convolution_unevenly_are_made_of_the_others(kernel: int) -> None:
    paddle.seed(0)
    net = nn.Sequential(nn.Conv2D(3, 16, 3), nn.ReLU(), nn.Conv2DTranspose(16, 8, kernel, stride=2))
    net[0].bias.set_value(np.full(16, 4, "float32"))
    dense = captured(net)
    groups = find_groups(dense, 20)
    pruned = cut(groups, {groups.groups[0].name: list(range(0, 16, 2))})
    reconstruct(pruned, dense, images(), pruned.record[-1]["kept"])
    assert error(pruned, dense, images(1)[0]) < 0.06


class SharedNorm(nn.Layer):
    """Two layers behind the first one, and one normalisation behind both."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2D(3, 8, 3), nn.BatchNorm2D(4)
        self.one, self.two = nn.Conv2D(8, 4, 1, bias_attr=False), nn.Conv2D(8, 4, 1, bias_attr=False)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = nn.functional.sigmoid(self.first(x))
        return self.norm(self.one(x)) + self.norm(self.two(x))


def test_a_norm_that_two_layers_share_takes_up_no_constant() -> None:
    paddle.seed(0)
    dense = captured(SharedNorm())
    groups = find_groups(dense, 20)
    pruned = cut(groups, {groups.groups[0].name: [0, 1, 2, 3, 4, 5]})
    (batch,) = images(1)
    before = error(pruned, dense, batch)
    reconstruct(pruned, dense, images(), pruned.record[-1]["kept"])
    assert error(pruned, dense, batch) < 0.2 * before


def test_linear_layers() -> None:
    paddle.seed(0)
    net = nn.Sequential(
        nn.Conv2D(3, 8, 3, padding=1), nn.AdaptiveAvgPool2D(4), nn.Flatten(2),
        nn.Linear(16, 8, bias_attr=False), nn.GELU(), nn.Linear(8, 5),
    )  # fmt: skip
    weight = net[3].weight.numpy()
    net[3].weight.set_value(np.concatenate([weight[:, :4], weight[:, :4]], axis=1))
    dense = captured(net)
    groups = find_groups(dense, 20)
    group = next(g for g in groups.groups if "3" in g.layers)
    pruned = cut(groups, {group.name: [0, 1, 2, 3]})
    (batch,) = images(1)
    before = error(pruned, dense, batch)
    done = reconstruct(pruned, dense, images(), pruned.record[-1]["kept"])
    assert [layer.node for layer in done] == ["5"]
    assert before > 0.05 and error(pruned, dense, batch) < 1e-6


def test_depth_does_not_add_the_errors_up_and_the_dense_model_stays() -> None:
    paddle.seed(0)
    layers: list[nn.Layer] = [nn.Conv2D(3, 16, 3, padding=1), nn.BatchNorm2D(16), nn.ReLU()]
    for _ in range(3):
        layers += [nn.Conv2D(16, 16, 3, padding=1, bias_attr=False), nn.BatchNorm2D(16), nn.ReLU()]
    net = nn.Sequential(*layers, nn.Conv2D(16, 4, 1))
    set_random_norms(net)
    dense = captured(net)
    untouched = {name: tensor.numpy() for name, tensor in dense.tensors()}
    groups = find_groups(dense, 20)
    pruned = cut(groups, {group.name: list(range(0, 16, 2)) for group in groups.groups})
    before = np.mean([error(pruned, dense, batch) for batch in images(4)])
    done = reconstruct(pruned, dense, images(), pruned.record[-1]["kept"])
    assert len(done) == 4 and all(layer.after <= layer.before for layer in done)
    assert np.mean([error(pruned, dense, batch) for batch in images(4)]) < 0.5 * before
    for name, tensor in dense.tensors():
        np.testing.assert_array_equal(tensor.numpy(), untouched[name])


def test_nothing_removed_nothing_changed() -> None:
    dense = captured(nn.Sequential(nn.Conv2D(3, 4, 3), nn.ReLU(), nn.Conv2D(4, 2, 1)))
    assert reconstruct(dense, dense, images(2), {}) == []
    assert images_that_fit(dense, (1, 3, 20, 20)) > 1000 and images_that_fit(dense, (1, 3, 9000, 9000)) == 2


def test_a_dead_channel_keeps_its_variance() -> None:
    paddle.seed(0)
    net = nn.Sequential(
        nn.Conv2D(3, 8, 3), nn.ReLU(), nn.Conv2D(8, 6, 3, bias_attr=False), nn.BatchNorm2D(6), nn.ReLU(),
        nn.Conv2D(6, 2, 1),
    )  # fmt: skip
    weight, variance = net[2].weight.numpy(), net[3]._variance.numpy()
    weight[2], variance[2] = 0, 0  # what decay leaves of a channel behind which nothing is learned
    net[2].weight.set_value(weight)
    net[3]._variance.set_value(variance)
    dense = captured(net)
    pruned = cut(find_groups(dense, 20), {"0": [0, 1, 2, 5]})
    reconstruct(pruned, dense, images(), pruned.record[-1]["kept"])
    found = pruned.tensor("3._variance").numpy()
    assert found[2] == 0 and np.isfinite(found).all()


def test_an_output_added_to_itself_has_no_bias() -> None:
    class Doubled(nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2D(3, 8, 3), nn.Conv2D(8, 4, 3, bias_attr=False)

        def forward(self, x: paddle.Tensor) -> paddle.Tensor:
            y = self.second(nn.functional.relu(self.first(x)))
            return y + y

    paddle.seed(0)
    dense = captured(Doubled())
    pruned = cut(find_groups(dense, 20), {"first": [0, 1, 2, 5]})
    done = reconstruct(pruned, dense, images(), pruned.record[-1]["kept"])
    assert [layer.node for layer in done] == ["second"]


def test_images_of_many_sizes_are_refitted_at_one_that_most_reach() -> None:
    def shapes(*sizes: tuple[int, int]) -> list[tuple[int, ...]]:
        return [image.shape for image in of_one_size([np.zeros((3, *size), "float32") for size in sizes])]

    assert shapes((50, 70), (50, 70)) == [(1, 3, 50, 70)] * 2
    assert shapes((100, 300), (300, 100)) == [(1, 3, 96, 96)] * 2
    assert shapes((20, 30), *[(200, 230)] * 7) == [(1, 3, 192, 224)] * 7
    assert shapes((20, 30), (40, 28)) == [(1, 3, 20, 28)] * 2
