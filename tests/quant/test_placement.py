"""Where quantizers stand in a net that has everything."""

from __future__ import annotations

import paddle
import pytest
from paddle import nn
from quant_nets import SHAPE, small_model

from paddleseg_slim.errors import UserError
from paddleseg_slim.graph import capture
from paddleseg_slim.quant.placement import Placement
from paddleseg_slim.quant.profiles import PROFILES
from paddleseg_slim.quant.ptq import QuantSettings, prepare


def placed(**options: object) -> Placement:
    return prepare(small_model(), QuantSettings(**options), SHAPE)[1]  # type: ignore[arg-type]


def test_cpu() -> None:
    placement = placed()
    assert set(placement.left) == {"head"} and "logits" in placement.left["head"]
    assert placement.macs_share > 0.95 and placement.layer_share == pytest.approx(6 / 7)
    groups = {site.value: site.group for site in placement.activations()}
    assert "stem.2" in groups and "stem.0" not in groups, "a convolution is quantized behind its ReLU"
    joined = [site for site in placement.activations() if "concat" in site.value]
    assert len(joined) == 1
    tied = [value for value, group in groups.items() if group == joined[0].group]
    assert len(tied) == 4, "both inputs of the concat, what the nearest resize reads, and the concat have one scale"
    pooled = next(value for value in groups if value.startswith("pool"))
    assert groups[pooled] != joined[0].group and sum(g == groups[pooled] for g in groups.values()) == 2
    assert "project.1" not in groups, "the addition's input is quantized behind the bias of the convolution"
    grids = {site.value: site.grid for site in placement.weights()}
    assert grids["stem.0.weight"].qmax == 63 and grids["stem.0.weight"].axis == 0
    assert grids["depthwise.0.weight"].qmax == 127, "depthwise products are not added in 16 bits"


@pytest.mark.parametrize("target", sorted(PROFILES))
def test_every_target(target: str) -> None:
    placement = placed(target=target)
    grids = {site.grid for site in placement.activations()}
    assert grids == {PROFILES[target].activation_grid()}
    outputs = {site.value for site in placement.activations()}
    logits = "head" in placement.layers
    assert logits == (placement.macs["head"] > PROFILES[target].logits_share * sum(placement.macs.values()))
    assert ("fuse.2" in outputs) == (logits or "conv2d" in PROFILES[target].quantized_output)


@pytest.mark.parametrize(("target", "stays"), [("cpu", True), ("openvino-vnni", True), ("tensorrt", False)])
def test_patches_stay_float_where_openvino_computes_them_wrong(target: str, stays: bool) -> None:
    paddle.seed(0)
    net = nn.Sequential(
        nn.Conv2D(3, 32, 3, padding=1), nn.Conv2D(32, 32, 4, stride=4), nn.Conv2D(32, 64, 3), nn.Conv2D(64, 8, 4, 4)
    )
    net.eval()
    layer = capture(net, [paddle.static.InputSpec([None, 3, 32, 32], "float32", "image")])
    left = prepare(layer, QuantSettings(target=target, all_layers=True), (1, 3, 32, 32))[1].left
    assert list(left) == (["1"] if stays else [])


def test_patterns_types_and_widths() -> None:
    placement = placed(skip=("^deep", r"stem\."), weight_bits=4, weight_type="abs_max")
    assert set(placement.left) == {"deep.0", "stem.0", "head"}
    assert {(s.grid.qmax, s.grid.axis, s.grid.bits) for s in placement.weights()} == {(7, None, 8)}
    assert placed(ops=("depthwise_conv2d",)).layers == ("depthwise.0",)
    assert placed(all_layers=True).left == {}
    assert placed(keep_float=("branch.0",)).left["branch.0"] == "was asked to stay float"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"skip": ("backbone",)}, "matches no layer"),
        ({"skip": ("(",)}, "no regular expression"),
        ({"keep_float": ("stemm",)}, "stem"),
        ({"ops": ("matmul",)}, "No layer of the model is one of"),
        ({"skip": (".",)}, "No layer of the model can be quantized"),
        ({"target": "gpu"}, "Unknown target"),
        ({"weight_bits": 9}, "2 to 8"),
        ({"weight_type": "per_channel"}, "channel_wise_abs_max"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        placed(**options)
