"""Every model of the zoo, without a peer: shapes, sizes, batches, modes, weights, tracing."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

import paddleseg_slim.models  # noqa: F401
from paddleseg_slim.errors import UserError
from paddleseg_slim.models.zoo import ZOO, Entry, build
from paddleseg_slim.registry import BACKBONES, MODELS

CLASSES = 4
HEADS = {
    "fast_scnn": (2, 2),
    "bisenetv2": (1, 5),
    "ocrnet_hrnet_w18": (1, 2),
    "gcnet_resnet50": (2, 2),
    "pspnet_resnet50": (2, 2),
    "pp_liteseg_stdc1": (1, 3),
    "pp_liteseg_stdc2": (1, 3),
}
"""Number of outputs in evaluation and in training, where it is not 1 in both."""

FAST = {
    "fast_scnn",
    "pp_humanseg_lite",
    "bisenetv2",
    "fcn_hrnet_w18_small",
    "hardnet",
    "deeplabv3p_resnet18",
    "pp_liteseg_stdc1",
    "segformer_b0",
}
"""Run by default; the others are slow."""


def zoo(fast: set[str]) -> list:
    return [name if name in fast else pytest.param(name, marks=pytest.mark.slow) for name in ZOO]


def image(*shape: int) -> paddle.Tensor:
    return paddle.to_tensor(np.random.default_rng(0).standard_normal(shape, dtype=np.float32))


@pytest.mark.parametrize("name", zoo(FAST))
def test_outputs_are_logits_of_the_input_size_in_both_modes(name: str) -> None:
    model = build(name, CLASSES)
    expected_eval, expected_train = HEADS.get(name, (1, 1))
    model.eval()
    with paddle.no_grad():
        for shape in ((1, 3, 64, 96), (2, 3, 70, 90)):
            outputs = model(image(*shape))
            assert [tuple(y.shape) for y in outputs] == [(shape[0], CLASSES, *shape[2:])] * expected_eval
    model.train()
    outputs = model(image(2, 3, 64, 64))
    assert [tuple(y.shape) for y in outputs] == [(2, CLASSES, 64, 64)] * expected_train
    sum(y.mean() for y in outputs).backward()
    without = [n for n, p in model.named_parameters() if not p.stop_gradient and p.grad is None]
    assert all(name == "pp_humanseg_lite" and "_depthwise_separable_0" in n for n in without), without


@pytest.mark.parametrize("name", zoo(FAST))
def test_weights_go_through_a_file(name: str, tmp_path) -> None:
    model, other = build(name, CLASSES), build(name, CLASSES)
    path = str(tmp_path / "model.pdparams")
    paddle.save(model.state_dict(), path)
    missing, unexpected = other.set_state_dict(paddle.load(path))
    assert not missing and not unexpected
    model.eval(), other.eval()
    with paddle.no_grad():
        for ours, theirs in zip(model(image(1, 3, 64, 64)), other(image(1, 3, 64, 64))):
            np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


def traced(name: str, entry: Entry, slow: bool = False):
    return pytest.param(entry, id=name, marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize(
    "entry",
    [
        traced(
            "ocrnet_small", Entry("OCRNet", "HRNet_W18_Small_V1", {"backbone_indices": (0,), "ocr_mid_channels": 32})
        ),
        *(traced(name, ZOO[name], slow=name not in ("fast_scnn", "pp_humanseg_lite")) for name in ZOO),
    ],
)
def test_traced_once_it_runs_at_any_size(entry: Entry) -> None:
    model = entry.build(CLASSES)
    model.eval()
    shapes = ((1, 3, 64, 96), (2, 3, 96, 64))
    with paddle.no_grad():
        expected = [model(image(*shape)) for shape in shapes]
        spec = [paddle.static.InputSpec([None, 3, None, None], "float32", "img")]
        static = paddle.jit.to_static(model, input_spec=spec, full_graph=True)
        for shape, outputs in zip(shapes, expected):
            for ours, theirs in zip(static(image(*shape)), outputs):
                np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-4, atol=1e-5)
        assert len(static.forward.program_cache) == 1


def test_a_file_of_weights_is_loaded_and_a_wrong_one_refused(tmp_path) -> None:
    path = str(tmp_path / "model.pdparams")
    donor = build("pp_humanseg_lite", CLASSES)
    paddle.save(donor.state_dict(), path)
    model = MODELS.get("PPHumanSegLite")(CLASSES, pretrained=path)
    for name, value in donor.state_dict().items():
        np.testing.assert_array_equal(model.state_dict()[name].numpy(), value.numpy())
    with pytest.raises(UserError, match="BiSeNetV2"):
        MODELS.get("BiSeNetV2")(CLASSES, pretrained=path)
    with pytest.raises(UserError, match="nowhere"):
        MODELS.get("FastSCNN")(CLASSES, pretrained=str(tmp_path / "nowhere.pdparams"))


def test_another_number_of_classes_keeps_the_pretrained_body(tmp_path) -> None:
    path = str(tmp_path / "model.pdparams")
    donor = build("bisenetv2", 19)
    paddle.save(donor.state_dict(), path)
    model = MODELS.get("BiSeNetV2")(2, pretrained=path)
    ours, theirs = model.state_dict(), donor.state_dict()
    changed = [name for name in ours if ours[name].shape != theirs[name].shape]
    assert {name.split(".")[0] for name in changed} == {"head", "aux_head1", "aux_head2", "aux_head3", "aux_head4"}
    for name in set(ours) - set(changed):
        np.testing.assert_array_equal(ours[name].numpy(), theirs[name].numpy())


@pytest.mark.parametrize(
    ("model", "args", "message"),
    [
        ("FCN", {"backbone_indices": (1,)}, "feature map 1; HRNet has 1"),
        ("FCN", {"backbone_indices": (0, 0)}, "one feature map"),
        ("FCN", {"data_format": "NHWC"}, "NHWC"),
        ("OCRNet", {"backbone_indices": (0, 0, 0)}, "1 or 2 feature maps"),
    ],
)
def test_what_a_head_cannot_do_is_refused(model: str, args: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        MODELS.get(model)(num_classes=CLASSES, backbone=BACKBONES.get("HRNet_W18_Small_V1")(), **args)


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match="bisenetv2"):
        build("bisenet_v2", CLASSES)
