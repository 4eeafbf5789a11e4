"""Every model of the matrix: gated equals pruned, and what pruning leaves works as a model."""

from __future__ import annotations

import json
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import peers
import pytest
from prune.matrix import captured, check_gated_equals_pruned, difference, outputs, random_keep

import paddleseg_slim.models  # noqa: F401
from paddleseg_slim.graph import flatten, load, save
from paddleseg_slim.graph.export import export_inference
from paddleseg_slim.models.zoo import ZOO, Entry, build
from paddleseg_slim.prune.channels import ChannelGroups, find_groups
from paddleseg_slim.prune.ranking import ranking_curves, scores
from paddleseg_slim.prune.reconstruct import reconstruct
from paddleseg_slim.prune.surgery import cut, replay

VISION = {"resnet18", "mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2_x0_25", "densenet121", "resnext50_32x4d"}
FAST = {"fast_scnn", "pp_humanseg_lite", "segformer_b0", "mobilenet_v3_small"}
"""Run by default: depthwise with a multiplier, shuffles, attention, SE, layer norm; the rest is slow."""

GCNET = Entry("GCNet", "ResNet18_vd", {"gc_channels": 64}, {"output_stride": 8})
PEERS = {
    "ann": Entry("ANN", "ResNet50_vd", {"key_value_channels": 64}, {"output_stride": 8}),
    "danet": Entry("DANet", "ResNet50_vd", {"backbone_indices": (2, 3)}, {"output_stride": 8}),
    "dnlnet": Entry("DNLNet", "ResNet50_vd", {}, {"output_stride": 8}),
    "decoupledsegnet": Entry("DecoupledSegNet", "ResNet50_vd", {}, {"output_stride": 8}),
    "unet3plus": Entry("UNet3Plus"),
}
"""Claimed prunable by PaddleSlim 2.1; taken from an installed paddleseg."""

OWN = (*ZOO, *sorted(VISION), "gcnet_resnet18")
MODELS = (*OWN, *PEERS)
CASES = [pytest.param(n, marks=[] if n in FAST else [pytest.mark.slow]) for n in OWN]
CASES += [pytest.param(n, marks=[pytest.mark.slow, pytest.mark.peer]) for n in PEERS]


def _warped(self: Any, x: Any, flow: Any, size: Any) -> Any:
    """Samples of ``x`` at places moved by ``flow``. That of paddleseg 2.8.0 divides by integers: not in Paddle 3."""
    rows = paddle.linspace(-1.0, 1.0, size[0]).unsqueeze(1)
    columns = paddle.linspace(-1.0, 1.0, size[1]).unsqueeze(0)
    grid = paddle.stack([columns + 0 * rows, rows + 0 * columns], axis=-1)
    moved = grid + flow.transpose([0, 2, 3, 1]) / size.flip([0]).astype("float32")
    return paddle.nn.functional.grid_sample(x, moved)


def model_of(name: str) -> Any:
    paddle.seed(1)
    if name in PEERS:
        components = [lambda n, k=k: peers.paddleseg_component(k, n) for k in ("MODELS", "BACKBONES")]
        model = PEERS[name].build(5, *components)
        for part in model.sublayers():
            if hasattr(part, "flow_warp"):
                part.flow_warp = types.MethodType(_warped, part)
        return captured(model)
    if name in VISION:
        return captured(getattr(paddle.vision.models, name)(num_classes=10))
    return captured(GCNET.build(5) if name == "gcnet_resnet18" else build(name, 5))


@pytest.fixture(scope="module", params=CASES)
def groups(request: pytest.FixtureRequest) -> ChannelGroups:
    return find_groups(model_of(request.param), 64)


def test_gated_equals_pruned(groups: ChannelGroups) -> None:
    assert groups.groups and not groups.unknown
    check_gated_equals_pruned(groups, 64)


@pytest.mark.slow
def test_gated_equals_pruned_for_each_group(groups: ChannelGroups) -> None:
    check_gated_equals_pruned(groups, 64, one_by_one=True)


def test_every_convolution_is_reported(groups: ChannelGroups) -> None:
    layers = {layer.node: layer for layer in groups.layers()}
    for node in groups.model.eval_graph.nodes:
        if "conv" in node.op:
            assert node.name in layers
            layer = layers[node.name]
            assert (layer.prunable == layer.channels and layer.groups) or layer.reason


def test_most_of_the_work_can_be_pruned(groups: ChannelGroups) -> None:
    assert groups.prunable_share() >= 0.95


def test_costs_are_those_of_the_pruned_model(groups: ChannelGroups) -> None:
    kept = random_keep(groups, 0.3)
    widths = np.array([len(kept[g.name]) for g in groups.groups])
    pruned = find_groups(cut(groups, kept), 64)
    for exact, predicted in ((pruned.macs, groups.macs), (pruned.parameters, groups.parameters)):
        uniform = all(_uniform(g) for g in groups.groups)
        assert predicted(widths) == pytest.approx(exact(pruned.widths), rel=1e-9 if uniform else 0.06)


def _uniform(group: Any) -> bool:
    """Whether every channel stands equally often on every axis; only then the cost is a polynomial of the width."""
    counts = [np.bincount(m.channels[m.channels >= 0], minlength=group.width) for m in group.members]
    return all(c.min() == c.max() for c in counts)


@pytest.mark.parametrize("ratio", [0.3, 0.5])
def test_a_pruned_model_is_a_model(groups: ChannelGroups, ratio: float, tmp_path: Path) -> None:
    before = outputs(groups.model, np.ones((1, 3, 64, 64), "float32"))
    pruned = cut(groups, random_keep(groups, ratio))
    assert difference(outputs(groups.model, np.ones((1, 3, 64, 64), "float32")), before) == 0
    assert pruned.record[-1]["step"] == "prune"
    for size, batch in ((64, 2), (96, 1)):
        x = np.random.default_rng(size).standard_normal((batch, 3, size, size)).astype("float32")
        assert all(np.isfinite(o).all() for o in outputs(pruned, x))
    pruned.train()
    optimizer = paddle.optimizer.Momentum(0.001, parameters=pruned.parameters())
    results = pruned(paddle.to_tensor(np.random.default_rng(0).standard_normal((2, 3, 64, 64)).astype("float32")))
    loss = sum(r.square().mean() for r in flatten(results) if isinstance(r, paddle.Tensor))
    loss.backward()
    optimizer.step()
    assert np.isfinite(loss.item())
    save(pruned, tmp_path / "pruned")
    assert difference(outputs(load(tmp_path / "pruned"), x), outputs(pruned, x)) < 1e-6
    fresh = replay(groups.model, pruned.record[-1])
    assert {n: tuple(t.shape) for n, t in fresh.tensors()} == {n: tuple(t.shape) for n, t in pruned.tensors()}


def test_layers_behind_are_refitted(groups: ChannelGroups) -> None:
    pruned = cut(groups, random_keep(groups, 0.3))
    random = np.random.default_rng(3)
    images = [random.standard_normal((1, 3, 64, 64)).astype("float32") for _ in range(2)]
    done = reconstruct(pruned, groups.model, images, pruned.record[-1]["kept"])
    assert done and all(layer.after <= layer.before for layer in done)
    assert all(np.isfinite(o).all() for o in outputs(pruned, images[0]))


def test_nothing_removed_is_the_same_model(groups: ChannelGroups) -> None:
    x = np.random.default_rng(4).standard_normal((1, 3, 64, 64)).astype("float32")
    whole = cut(groups, {g.name: np.arange(g.width) for g in groups.groups})
    assert difference(outputs(whole, x), outputs(groups.model, x)) == 0 and whole.record == groups.model.record


@pytest.mark.slow
def test_pruned_again(groups: ChannelGroups) -> None:
    once = cut(groups, random_keep(groups, 0.3))
    again = find_groups(once, 64)
    check_gated_equals_pruned(again, 64)


def test_criteria_judge_every_group(groups: ChannelGroups) -> None:
    for criterion in ("l1_norm", "l2_norm", "fpgm", "random"):
        importance = scores(groups, criterion)
        assert set(importance) == {g.name for g in groups.groups}
        assert all(np.isfinite(s).all() and len(s) == groups.by_name[n].width for n, s in importance.items())
    assert set(ranking_curves(groups, scores(groups, "bn_scale"), "bn_scale").groups) <= set(groups.by_name)


def test_a_new_process_needs_no_class(tmp_path: Path) -> None:
    """Loaded and exported where neither this package's models nor its pruner are imported."""
    groups = find_groups(model_of("fast_scnn"), 64)
    pruned = cut(groups, random_keep(groups, 0.4))
    x = np.random.default_rng(0).standard_normal((1, 3, 64, 64)).astype("float32")
    np.save(tmp_path / "x.npy", x)
    save(pruned, tmp_path / "model")
    export_inference(pruned, tmp_path / "exported")
    program = (
        "import sys, json, numpy as np, paddle\n"
        "from paddleseg_slim.graph import load\n"
        "x = paddle.to_tensor(np.load(sys.argv[1] + '/x.npy'))\n"
        "results = [load(sys.argv[1] + '/' + name)(x) for name in ('model', 'exported')]\n"
        "assert not any(m.startswith(('paddleseg_slim.models', 'paddleseg_slim.prune')) for m in sys.modules)\n"
        "print(json.dumps([float(r[0].abs().sum()) for r in results]))\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    for total in json.loads(done.stdout.splitlines()[-1]):
        assert total == pytest.approx(float(np.abs(outputs(pruned, x)[0]).sum()), rel=1e-5)
