"""PP-LiteSeg: pooled context, then attention fusion from coarse to fine (Peng et al. 2022, arXiv:2204.02681)."""

from __future__ import annotations

from collections.abc import Sequence

from paddle import Tensor, nn

from paddleseg_slim.errors import UserError, nearest
from paddleseg_slim.models.layers import ConvBNReLU, feature_channels, resize_to, spatial_size
from paddleseg_slim.models.uafm import FUSIONS
from paddleseg_slim.models.weights import load_pretrained
from paddleseg_slim.registry import MODELS


@MODELS.register()
class PPLiteSeg(nn.Layer):
    """PP-LiteSeg.

    Args:
        num_classes: number of classes.
        backbone: a layer that returns several feature maps and has ``feat_channels``.
        backbone_indices: which features are fused, two or more, fine to coarse.
        arm_type: kind of fusion, a key of `uafm.FUSIONS`.
        cm_bin_sizes: edges of the pooling grids of the context.
        cm_out_ch: channels of the context.
        arm_out_chs: channels after each fusion, fine to coarse; one value serves all.
        seg_head_inter_chs: channels inside each head; one value serves all.
        resize_mode: how coarse features are resized in the fusions, a mode of ``F.interpolate``.
        pretrained: path or URL of weights of the whole model.

    Raises:
        UserError: an unknown ``arm_type``, or lists of different lengths.
    """

    def __init__(
        self,
        num_classes: int,
        backbone: nn.Layer,
        backbone_indices: Sequence[int] = (2, 3, 4),
        arm_type: str = "UAFM_SpAtten",
        cm_bin_sizes: Sequence[int] = (1, 2, 4),
        cm_out_ch: int = 128,
        arm_out_chs: Sequence[int] = (64, 96, 128),
        seg_head_inter_chs: Sequence[int] = (64, 64, 64),
        resize_mode: str = "bilinear",
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        channels = feature_channels(backbone, backbone_indices)
        if len(channels) < 2:
            raise UserError(f"PPLiteSeg: `backbone_indices` is {list(backbone_indices)}.", "Name two or more.")
        fused = _one_each("arm_out_chs", arm_out_chs, len(channels))
        inner = _one_each("seg_head_inter_chs", seg_head_inter_chs, len(channels))
        self.backbone = backbone
        self.backbone_indices = tuple(backbone_indices)
        self.ppseg_head = PPLiteSegHead(channels, fused, cm_bin_sizes, cm_out_ch, arm_type, resize_mode)
        self.seg_heads = nn.LayerList([SegHead(*pair, num_classes) for pair in zip(fused, inner)])
        load_pretrained(self, pretrained)

    def forward(self, x: Tensor) -> list[Tensor]:
        """``[N, in, H, W]`` -> logits ``[N, classes, H, W]``: one; in training one for each fusion, fine to coarse."""
        size = spatial_size(x)
        features = self.backbone(x)
        fused = self.ppseg_head([features[index] for index in self.backbone_indices])
        heads = list(zip(self.seg_heads, fused))
        return [resize_to(head(feature), size) for head, feature in (heads if self.training else heads[:1])]


def _one_each(name: str, values: Sequence[int], count: int) -> list[int]:
    if len(values) not in (1, count):
        raise UserError(
            f"PPLiteSeg: `{name}` has {len(values)} values, `backbone_indices` {count}.",
            "Give one for each feature, or one for all.",
        )
    return list(values) * (count if len(values) == 1 else 1)


class PPLiteSegHead(nn.Layer):
    """The context of the coarsest features and the fusions, from coarse to fine."""

    def __init__(
        self,
        backbone_channels: Sequence[int],
        fused_channels: Sequence[int],
        bin_sizes: Sequence[int],
        context_channels: int,
        arm_type: str,
        resize_mode: str,
    ) -> None:
        super().__init__()
        if arm_type not in FUSIONS:
            raise UserError(f"PPLiteSeg: unknown `arm_type` {arm_type!r}.", nearest(arm_type, FUSIONS))
        self.cm = PPContextModule(backbone_channels[-1], context_channels, context_channels, bin_sizes)
        coarse_channels = [*fused_channels[1:], context_channels]
        self.arm_list = nn.LayerList(
            [
                FUSIONS[arm_type](*channels, ksize=3, resize_mode=resize_mode)
                for channels in zip(backbone_channels, coarse_channels, fused_channels)
            ]
        )

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Features, fine to coarse -> fused features of the same resolutions."""
        coarse = self.cm(features[-1])
        fused = []
        for fusion, fine in zip(reversed(list(self.arm_list)), reversed(list(features))):
            coarse = fusion(fine, coarse)
            fused.append(coarse)
        return fused[::-1]


class PPContextModule(nn.Layer):
    """Simple pyramid pooling: means over grids of several sizes, resized back and added.

    Args:
        in_channels: input channels.
        inter_channels: channels of each level.
        out_channels: output channels.
        bin_sizes: edge of each grid.
        align_corners: of the resizing.
    """

    def __init__(
        self,
        in_channels: int,
        inter_channels: int,
        out_channels: int,
        bin_sizes: Sequence[int],
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        self.stages = nn.LayerList(
            [
                nn.Sequential(nn.AdaptiveAvgPool2D(bins), ConvBNReLU(in_channels, inter_channels, 1))
                for bins in bin_sizes
            ]
        )
        self.conv_out = ConvBNReLU(inter_channels, out_channels, 3, padding=1)
        self.align_corners = align_corners

    def forward(self, x: Tensor) -> Tensor:
        """``[N, in, H, W]`` -> ``[N, out, H, W]``."""
        size = spatial_size(x)
        levels = [resize_to(stage(x), size, self.align_corners) for stage in self.stages]
        return self.conv_out(sum(levels[1:], levels[0]))


class SegHead(nn.Layer):
    """3x3 ConvBNReLU and a 1x1 convolution without bias."""

    def __init__(self, in_channels: int, inter_channels: int, num_classes: int) -> None:
        super().__init__()
        self.conv = ConvBNReLU(in_channels, inter_channels, 3, padding=1, bias_attr=False)
        self.conv_out = nn.Conv2D(inter_channels, num_classes, 1, bias_attr=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, in, H, W]`` -> logits ``[N, classes, H, W]``."""
        return self.conv_out(self.conv(x))
