"""BiSeNetV2: a wide shallow branch for detail, a narrow deep one for meaning (Yu et al. 2020, arXiv:2004.02147)."""

from __future__ import annotations

from collections.abc import Sequence

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddleseg_slim.models.layers import Conv2D, ConvBN, ConvBNReLU, DepthwiseConvBN, resize_to, spatial_size
from paddleseg_slim.models.weights import init_convs, load_pretrained
from paddleseg_slim.registry import MODELS


@MODELS.register()
class BiSeNetV2(nn.Layer):
    """BiSeNetV2.

    Args:
        num_classes: number of classes.
        lambd: width of the first two stages of the semantic branch, relative to the detail branch.
        align_corners: of the resizing of features and logits.
        in_channels: channels of the image.
        pretrained: path or URL of weights of the whole model.
    """

    def __init__(
        self,
        num_classes: int,
        lambd: float = 0.25,
        align_corners: bool = False,
        in_channels: int = 3,
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        semantic = (int(64 * lambd), int(128 * lambd), 64, 128)
        self.db = DetailBranch(in_channels, (64, 64, 128))
        self.sb = SemanticBranch(in_channels, semantic)
        self.bga = BGA(128, align_corners)
        self.aux_head1, self.aux_head2, self.aux_head3, self.aux_head4 = (
            SegHead(channels, channels, num_classes) for channels in semantic
        )
        self.head = SegHead(128, 128, num_classes)
        self.align_corners = align_corners
        init_convs(self, nn.initializer.KaimingNormal())
        load_pretrained(self, pretrained)

    def forward(self, x: Tensor) -> list[Tensor]:
        """``[N, in, H, W]`` -> logits ``[N, classes, H, W]``: one; in training one more for each semantic stage."""
        detail = self.db(x)
        *stages, context = self.sb(x)
        logits = [self.head(self.bga(detail, context))]
        if self.training:
            heads = (self.aux_head1, self.aux_head2, self.aux_head3, self.aux_head4)
            logits += [head(stage) for head, stage in zip(heads, stages)]
        size = spatial_size(x)
        return [resize_to(logit, size, self.align_corners) for logit in logits]


class DetailBranch(nn.Layer):
    """Eight 3x3 convolutions in three stages of stride 2: ``[N, in, H, W]`` -> ``[N, c3, H/8, W/8]``."""

    def __init__(self, in_channels: int, channels: Sequence[int]) -> None:
        super().__init__()
        blocks = []
        for depth, out_channels in zip((2, 3, 3), channels):
            for i in range(depth):
                blocks.append(ConvBNReLU(in_channels, out_channels, 3, stride=2 if i == 0 else 1))
                in_channels = out_channels
        self.convs = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        """Image -> features at 1/8."""
        return self.convs(x)


class SemanticBranch(nn.Layer):
    """Stem to 1/4, then three stages of gather-and-expansion layers to 1/32, then context embedding."""

    def __init__(self, in_channels: int, channels: Sequence[int]) -> None:
        super().__init__()
        first, third, fourth, fifth = channels
        self.stem = StemBlock(in_channels, first)
        self.stage3 = _stage(first, third, depth=2)
        self.stage4 = _stage(third, fourth, depth=2)
        self.stage5_4 = _stage(fourth, fifth, depth=4)
        self.ce = ContextEmbeddingBlock(fifth, fifth)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Image -> features at 1/4, 1/8, 1/16, 1/32, and those at 1/32 with context."""
        stage2 = self.stem(x)
        stage3 = self.stage3(stage2)
        stage4 = self.stage4(stage3)
        stage5 = self.stage5_4(stage4)
        return stage2, stage3, stage4, stage5, self.ce(stage5)


def _stage(in_channels: int, out_channels: int, depth: int) -> nn.Sequential:
    others = [GatherAndExpansionLayer1(out_channels, out_channels, 6) for _ in range(depth - 1)]
    return nn.Sequential(GatherAndExpansionLayer2(in_channels, out_channels, 6), *others)


class StemBlock(nn.Layer):
    """Stride 4 by two ways, convolution and max pooling, joined."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = ConvBNReLU(in_channels, out_channels, 3, stride=2)
        self.left = nn.Sequential(
            ConvBNReLU(out_channels, out_channels // 2, 1), ConvBNReLU(out_channels // 2, out_channels, 3, stride=2)
        )
        self.right = nn.MaxPool2D(kernel_size=3, stride=2, padding=1)
        self.fuse = ConvBNReLU(out_channels * 2, out_channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, in, H, W]`` -> ``[N, out, H/4, W/4]``."""
        x = self.conv(x)
        return self.fuse(paddle.concat([self.left(x), self.right(x)], axis=1))


class ContextEmbeddingBlock(nn.Layer):
    """Add what the mean of the whole image tells to every pixel."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.gap = nn.AdaptiveAvgPool2D(1)
        self.bn = nn.BatchNorm2D(in_channels)
        self.conv_1x1 = ConvBNReLU(in_channels, out_channels, 1)
        self.conv_3x3 = Conv2D(out_channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, in, h, w]`` -> ``[N, out, h, w]``."""
        return self.conv_3x3(self.conv_1x1(self.bn(self.gap(x))) + x)


class GatherAndExpansionLayer1(nn.Layer):
    """Gather-and-expansion layer of stride 1: 3x3, depthwise expansion, projection, shortcut."""

    def __init__(self, in_channels: int, out_channels: int, expand: int) -> None:
        super().__init__()
        inner = expand * in_channels
        self.conv = nn.Sequential(
            ConvBNReLU(in_channels, in_channels, 3),
            DepthwiseConvBN(in_channels, inner, 3),
            ConvBN(inner, out_channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """``[N, in, h, w]`` -> ``[N, out, h, w]``."""
        return F.relu(self.conv(x) + x)


class GatherAndExpansionLayer2(nn.Layer):
    """Gather-and-expansion layer of stride 2: two depthwise convolutions, and a convolved shortcut."""

    def __init__(self, in_channels: int, out_channels: int, expand: int) -> None:
        super().__init__()
        inner = expand * in_channels
        self.branch_1 = nn.Sequential(
            ConvBNReLU(in_channels, in_channels, 3),
            DepthwiseConvBN(in_channels, inner, 3, stride=2),
            DepthwiseConvBN(inner, inner, 3),
            ConvBN(inner, out_channels, 1),
        )
        self.branch_2 = nn.Sequential(
            DepthwiseConvBN(in_channels, in_channels, 3, stride=2), ConvBN(in_channels, out_channels, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """``[N, in, h, w]`` -> ``[N, out, h/2, w/2]``."""
        return F.relu(self.branch_1(x) + self.branch_2(x))


class BGA(nn.Layer):
    """Bilateral guided aggregation: each branch is gated by the other, at both sizes, and the two are added."""

    def __init__(self, channels: int, align_corners: bool) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.db_branch_keep = nn.Sequential(DepthwiseConvBN(channels, channels, 3), Conv2D(channels, channels, 1))
        self.db_branch_down = nn.Sequential(
            ConvBN(channels, channels, 3, stride=2), nn.AvgPool2D(kernel_size=3, stride=2, padding=1)
        )
        self.sb_branch_keep = nn.Sequential(
            DepthwiseConvBN(channels, channels, 3), Conv2D(channels, channels, 1), nn.Sigmoid()
        )
        self.sb_branch_up = ConvBN(channels, channels, 3)
        self.conv = ConvBN(channels, channels, 3)

    def forward(self, detail: Tensor, context: Tensor) -> Tensor:
        """``[N, C, h, w]``, ``[N, C, h/4, w/4]`` -> ``[N, C, h, w]``."""
        size = spatial_size(detail)
        gate = F.sigmoid(resize_to(self.sb_branch_up(context), size, self.align_corners))
        fine = self.db_branch_keep(detail) * gate
        coarse = self.db_branch_down(detail) * self.sb_branch_keep(context)
        return self.conv(fine + resize_to(coarse, size, self.align_corners))


class SegHead(nn.Layer):
    """3x3 ConvBNReLU, dropout, 1x1 convolution to the classes."""

    def __init__(self, in_channels: int, mid_channels: int, num_classes: int) -> None:
        super().__init__()
        self.conv_3x3 = nn.Sequential(ConvBNReLU(in_channels, mid_channels, 3), nn.Dropout(0.1))
        self.conv_1x1 = Conv2D(mid_channels, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, in, h, w]`` -> logits ``[N, classes, h, w]``."""
        return self.conv_1x1(self.conv_3x3(x))
