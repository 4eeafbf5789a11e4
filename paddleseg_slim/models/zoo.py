"""Reference configurations: a short name for each architecture as it is usually built.

Tests, benchmarks and documents use them; a user's own config is not bound to them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from paddle import nn

from paddleseg_slim.errors import UserError, nearest
from paddleseg_slim.registry import BACKBONES, MODELS

Lookup = Callable[[str], Callable[..., Any]]


@dataclass(frozen=True)
class Entry:
    """How a model is built.

    Attributes:
        model: registered name of the model.
        backbone: registered name of its backbone, if it takes one.
        args: arguments of the model, without ``num_classes`` and ``backbone``.
        backbone_args: arguments of the backbone.
    """

    model: str
    backbone: str | None = None
    args: Mapping[str, Any] = field(default_factory=dict)
    backbone_args: Mapping[str, Any] = field(default_factory=dict)

    def build(self, num_classes: int, model: Lookup = MODELS.get, backbone: Lookup = BACKBONES.get) -> nn.Layer:
        """Build the model with random weights.

        Args:
            num_classes: number of classes.
            model: gives the class of a registered name.
            backbone: the same for backbones.
        """
        parts = {"backbone": backbone(self.backbone)(**self.backbone_args)} if self.backbone else {}
        return model(self.model)(num_classes=num_classes, **parts, **self.args)


ZOO: dict[str, Entry] = {
    "fast_scnn": Entry("FastSCNN"),
    "pp_humanseg_lite": Entry("PPHumanSegLite"),
    "bisenetv2": Entry("BiSeNetV2"),
    "fcn_hrnet_w18_small": Entry("FCN", "HRNet_W18_Small_V1"),
    "fcn_hrnet_w18": Entry("FCN", "HRNet_W18"),
    "fcn_hrnet_w48": Entry("FCN", "HRNet_W48"),
    "ocrnet_hrnet_w18": Entry("OCRNet", "HRNet_W18", {"backbone_indices": (0,)}),
    "hardnet": Entry("HarDNet"),
    "unet": Entry("UNet"),
    "deeplabv3_resnet18": Entry("DeepLabV3", "ResNet18_vd", {}, {"output_stride": 16}),
    "deeplabv3_resnet50": Entry("DeepLabV3", "ResNet50_vd", {"aspp_ratios": (1, 12, 24, 36)}, {"output_stride": 8}),
    "deeplabv3p_resnet18": Entry("DeepLabV3P", "ResNet18_vd", {}, {"output_stride": 16}),
    "deeplabv3p_resnet50": Entry("DeepLabV3P", "ResNet50_vd", {}, {"output_stride": 16}),
    "deeplabv3p_resnet101": Entry("DeepLabV3P", "ResNet101_vd", {}, {"output_stride": 16}),
    "gcnet_resnet50": Entry("GCNet", "ResNet50_vd", {}, {"output_stride": 8}),
    "pspnet_resnet50": Entry("PSPNet", "ResNet50_vd", {}, {"output_stride": 8}),
    "pp_liteseg_stdc1": Entry("PPLiteSeg", "STDC1"),
    "pp_liteseg_stdc2": Entry("PPLiteSeg", "STDC2"),
    "segformer_b0": Entry("SegFormer", "MixVisionTransformer_B0", {"embedding_dim": 256}),
    "segformer_b1": Entry("SegFormer", "MixVisionTransformer_B1", {"embedding_dim": 256}),
    "segformer_b2": Entry("SegFormer", "MixVisionTransformer_B2", {"embedding_dim": 768}),
}


def build(name: str, num_classes: int) -> nn.Layer:
    """Build a model of the zoo with random weights.

    Raises:
        UserError: the zoo has no such name.
    """
    if name not in ZOO:
        raise UserError(f"The zoo has no model {name!r}.", nearest(name, ZOO))
    return ZOO[name].build(num_classes)
