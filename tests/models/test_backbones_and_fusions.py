"""The parts of part-built models against PaddleSeg 2.8.0: the fusions of PP-LiteSeg, ResNets, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import peers
import pytest

import paddleseg_slim.models  # noqa: F401
from paddleseg_slim.errors import UserError
from paddleseg_slim.models.resnet_vd import ResNet18_vd
from paddleseg_slim.models.stdcnet import STDC1
from paddleseg_slim.models.uafm import FUSIONS
from paddleseg_slim.registry import BACKBONES, MODELS


def tensor(seed: int, *shape: int) -> paddle.Tensor:
    value = paddle.to_tensor(np.random.default_rng(seed).standard_normal(shape, dtype=np.float32))
    value.stop_gradient = False
    return value


@pytest.mark.peer
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize("name", list(FUSIONS))
def test_a_fusion_equals_paddlesegs(name: str, mode: str, training: bool) -> None:
    ours = FUSIONS[name](10, 8, 6, ksize=1, resize_mode=mode)
    theirs = getattr(peers.paddleseg("paddleseg.models.layers"), name)(10, 8, 6, ksize=1, resize_mode=mode)
    for value in theirs.state_dict().values():
        value.set_value(value + 0.1 * paddle.rand(value.shape))
    assert not any(ours.set_state_dict(theirs.state_dict()))
    results = []
    for model in (ours, theirs):
        model.train() if training else model.eval()
        fine, coarse = tensor(0, 6, 10, 9, 14), tensor(1, 6, 8, 5, 7)
        output = model(fine, coarse)
        (output**2).sum().backward()
        results.append([output.numpy(), fine.grad.numpy(), coarse.grad.numpy()])
    for a, b in zip(*results):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max())


@pytest.mark.peer
@pytest.mark.parametrize(
    ("layers", "args"),
    [
        (34, {"output_stride": 8}),
        pytest.param(50, {"output_stride": 16, "multi_grid": (1, 2, 4)}, marks=pytest.mark.slow),
        pytest.param(101, {"output_stride": 32}, marks=pytest.mark.slow),
    ],
)
def test_a_resnet_has_paddlesegs_features(layers: int, args: dict[str, Any]) -> None:
    """PaddleSeg has a ResNet of 34 layers but does not register it."""
    theirs = peers.paddleseg("paddleseg.models.backbones.resnet_vd").ResNet_vd(layers, **args)
    ours = BACKBONES.get(f"ResNet{layers}_vd")(**args)
    assert not any(ours.set_state_dict(theirs.state_dict()))
    assert ours.feat_channels == theirs.feat_channels
    ours.eval(), theirs.eval()
    with paddle.no_grad():
        for a, b in zip(ours(tensor(0, 1, 3, 32, 48)), theirs(tensor(0, 1, 3, 32, 48))):
            np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-4, atol=1e-5 * float(b.abs().max()))


def test_a_backbone_can_run_in_nhwc() -> None:
    plain, turned = ResNet18_vd(), ResNet18_vd(data_format="NHWC")
    turned.set_state_dict(plain.state_dict())
    plain.eval(), turned.eval()
    x = tensor(0, 1, 3, 32, 48)
    with paddle.no_grad():
        for a, b in zip(plain(x), turned(x.transpose([0, 2, 3, 1]))):
            np.testing.assert_allclose(a.numpy(), b.transpose([0, 3, 1, 2]).numpy(), rtol=1e-3, atol=1e-4)


def test_relative_lr_scales_what_the_optimizer_does() -> None:
    model = STDC1(relative_lr=0.1)
    assert {p.optimize_attr["learning_rate"] for p in model.parameters() if p.trainable} == {0.1}


def test_stochastic_depth_skips_whole_samples_in_training_only() -> None:
    backbone = BACKBONES.get("MixVisionTransformer_B0")()
    drop = backbone.block4[-1].drop_path
    x = paddle.ones([400, 3, 2])
    drop.eval()
    assert (drop(x).numpy() == 1).all()
    drop.train()
    paddle.seed(0)
    kept = drop(x).numpy().reshape(400, -1)
    assert ((kept == 0).all(axis=1) | np.isclose(kept, 1 / 0.9).all(axis=1)).all()
    assert 0.05 < (kept[:, 0] == 0).mean() < 0.15


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: BACKBONES.get("ResNet18_vd")(output_stride=4), "output_stride"),
        (lambda: BACKBONES.get("ResNet50_vd")(multi_grid=(1, 2)), "multi_grid"),
        (lambda: BACKBONES.get("STDC1")(type="add"), "add"),
        (lambda: BACKBONES.get("STDC1")(block_num=1), "block_num"),
        (lambda: MODELS.get("DeepLabV3P")(2, STDC1(), backbone_indices=(3,)), "2 feature maps"),
        (lambda: MODELS.get("PSPNet")(2, STDC1(), backbone_indices=(3, 5)), "feature map 5; STDCNet has 5"),
        (lambda: MODELS.get("PPLiteSeg")(2, STDC1(), arm_type="UAFM_SpAttn"), "UAFM_SpAttn"),
        (lambda: MODELS.get("PPLiteSeg")(2, STDC1(), arm_out_chs=(64, 96)), "arm_out_chs"),
        (lambda: MODELS.get("PPLiteSeg")(2, STDC1(), backbone_indices=(4,)), "backbone_indices"),
    ],
)
def test_what_there_is_no_net_for_is_refused(build: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build()
