"""Every model against PaddleSeg 2.8.0: arguments, names of the parameters, initial values, outputs."""

from __future__ import annotations

import inspect

import numpy as np
import paddle
import peers
import pytest

import paddleseg_slim.models  # noqa: F401
from paddleseg_slim.models.zoo import ZOO, Entry
from paddleseg_slim.registry import BACKBONES, MODELS

pytestmark = pytest.mark.peer

CLASSES = 5
HRNET_VARIANT = {"has_se": True, "use_psa": True, "padding_same": False, "align_corners": True}
VARIANTS = {
    "fast_scnn_one_head": Entry("FastSCNN", args={"enable_auxiliary_loss": False, "align_corners": True}),
    "bisenetv2_wide": Entry("BiSeNetV2", args={"lambd": 0.5, "in_channels": 4}),
    "fcn_hrnet_attention": Entry("FCN", "HRNet_W18_Small_V2", {"bias": False, "channels": 64}, HRNET_VARIANT),
    "unet_deconv": Entry("UNet", args={"use_deconv": True}),
    "gcnet_resnet18": Entry("GCNet", "ResNet18_vd", {"gc_channels": 64, "ratio": 0.5}, {"output_stride": 16}),
    "pspnet_resnet18": Entry(
        "PSPNet", "ResNet18_vd", {"pp_out_channels": 64, "enable_auxiliary_loss": False}, {"output_stride": 32}
    ),
    "deeplabv3_multi_grid": Entry(
        "DeepLabV3", "ResNet18_vd", {"aspp_out_channels": 32, "align_corners": True}, {"multi_grid": (1, 2, 4)}
    ),
}
FAST = {
    "fast_scnn",
    "fast_scnn_one_head",
    "pp_humanseg_lite",
    "bisenetv2",
    "fcn_hrnet_w18_small",
    "fcn_hrnet_attention",
    "hardnet",
    "deeplabv3p_resnet18",
    "gcnet_resnet18",
    "pspnet_resnet18",
    "pp_liteseg_stdc1",
    "segformer_b0",
}
"""Run by default; the others are slow."""

ENTRIES = [
    pytest.param(entry, id=name, marks=[] if name in FAST else [pytest.mark.slow])
    for name, entry in {**ZOO, **VARIANTS}.items()
]


def pair(entry: Entry) -> tuple[paddle.nn.Layer, paddle.nn.Layer]:
    theirs = entry.build(
        CLASSES,
        model=lambda name: peers.paddleseg_component("MODELS", name),
        backbone=lambda name: peers.paddleseg_component("BACKBONES", name),
    )
    return entry.build(CLASSES), theirs


def randomise(model: paddle.nn.Layer, x: np.ndarray) -> None:
    """Random weights, and the statistics that ``x`` has with them: signals keep their size through any depth."""
    rng = np.random.default_rng(0)
    for name, value in model.named_parameters():
        shape = tuple(value.shape)
        if len(shape) > 1:
            new = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
        else:
            new = rng.uniform(0.5, 1.5, shape) if name.endswith(".weight") else rng.uniform(-0.1, 0.1, shape)
        value.set_value(new.astype(np.float32))
    norms = [layer for layer in model.sublayers() if isinstance(layer, paddle.nn.BatchNorm2D)]
    momenta = [norm._momentum for norm in norms]
    for norm in norms:
        norm._momentum = 0.0
    outputs(model, x, training=True)
    for norm, momentum in zip(norms, momenta):
        norm._momentum = momentum


def outputs(model: paddle.nn.Layer, x: np.ndarray, training: bool) -> list[np.ndarray]:
    model.train() if training else model.eval()
    paddle.seed(7)
    with paddle.no_grad():
        return [y.numpy() for y in model(paddle.to_tensor(x))]


def assert_close(ours: np.ndarray, theirs: np.ndarray, name: str) -> None:
    assert ours.shape == theirs.shape, name
    scale = max(1.0, float(np.abs(theirs).max()))
    assert float(np.abs(ours - theirs).max()) <= 1e-5 * scale, name


@pytest.mark.parametrize("entry", ENTRIES)
def test_equals_paddleseg(entry: Entry) -> None:
    ours, theirs = pair(entry)
    assert {k: tuple(v.shape) for k, v in ours.state_dict().items()} == {
        k: tuple(v.shape) for k, v in theirs.state_dict().items()
    }
    assert [n for n, p in ours.named_parameters() if p.stop_gradient] == [
        n for n, p in theirs.named_parameters() if p.stop_gradient
    ]
    check_initial_values(ours, theirs)

    x = np.random.default_rng(1).standard_normal((2, entry.args.get("in_channels", 3), 64, 96), dtype=np.float32)
    randomise(theirs, x)
    ours.set_state_dict(theirs.state_dict())
    for training in (False, True):
        found, expected = outputs(ours, x, training), outputs(theirs, x, training)
        assert len(found) == len(expected)
        for i, (a, b) in enumerate(zip(found, expected)):
            assert np.abs(b).max() > 1e-3, "the comparison says nothing"
            assert_close(a, b, f"output {i}, training {training}")
    statistics = theirs.state_dict()
    for name, value in ours.state_dict().items():
        assert_close(value.numpy(), statistics[name].numpy(), name)


def check_initial_values(ours: paddle.nn.Layer, theirs: paddle.nn.Layer) -> None:
    """The same distributions: where values are drawn, their spread; where they are constant, the constant."""
    expected = theirs.state_dict()
    for name, value in ours.state_dict().items():
        a, b = value.numpy(), expected[name].numpy()
        if b.std() == 0:
            np.testing.assert_array_equal(a, b, name)
        elif b.size >= 1000:
            assert abs(a.std() / b.std() - 1) < 0.15, name
            assert abs(a.mean() - b.mean()) < 0.2 * b.std(), name


def arguments(component) -> list[tuple[str, object]]:
    """Names and defaults in their order, without ``**kwargs``."""
    parameters = inspect.signature(component).parameters.values()
    return [
        (p.name, tuple(p.default) if isinstance(p.default, (tuple, list)) else p.default)
        for p in parameters
        if p.kind is not inspect.Parameter.VAR_KEYWORD
    ]


@pytest.mark.parametrize("name", sorted({entry.model for entry in ZOO.values()}))
def test_a_model_takes_the_same_arguments(name: str) -> None:
    assert arguments(MODELS.get(name)) == arguments(peers.paddleseg_component("MODELS", name))


@pytest.mark.parametrize("name", sorted(set(BACKBONES) - {"ResNet34_vd"}))  # PaddleSeg does not register that one
def test_a_backbone_takes_the_same_arguments(name: str) -> None:
    """A factory of PaddleSeg names some arguments and passes the rest to its class; ours names them all."""
    theirs = peers.paddleseg_component("BACKBONES", name)
    named = arguments(theirs)
    assert set(named) <= set(arguments(BACKBONES.get(name)))
    if inspect.isfunction(theirs):
        classes = [theirs.__globals__.get(n) for n in theirs.__code__.co_names]
        (passed_to,) = (c for c in classes if inspect.isclass(c) and issubclass(c, paddle.nn.Layer))
        named += arguments(passed_to)
    assert set(arguments(BACKBONES.get(name))) <= set(named)


SMALL_HRNETS = ("HRNet_W18_Small_V1", "HRNet_W18_Small_V2")


@pytest.mark.parametrize(
    "name",
    [
        name if name in SMALL_HRNETS else pytest.param(name, marks=pytest.mark.slow)
        for name in BACKBONES
        if name.startswith("HRNet")
    ],
)
def test_every_hrnet_has_the_same_parameters(name: str) -> None:
    ours, theirs = BACKBONES.get(name)(), peers.paddleseg_component("BACKBONES", name)()
    assert {k: tuple(v.shape) for k, v in ours.state_dict().items()} == {
        k: tuple(v.shape) for k, v in theirs.state_dict().items()
    }
    assert ours.feat_channels == theirs.feat_channels


def test_hrnet_takes_the_same_arguments() -> None:
    from paddleseg_slim.models.hrnet import HRNet

    assert arguments(HRNet) == arguments(peers.paddleseg("paddleseg.models.backbones.hrnet").HRNet)
