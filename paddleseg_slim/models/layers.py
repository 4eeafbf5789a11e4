"""Blocks that several architectures share.

Attribute names are those of PaddleSeg (``_conv``, ``_batch_norm``, ``piontwise_conv`` with its spelling, ...), because
they are the keys of its published weights. BatchNorm is always ``BatchNorm2D``: the trainer converts it to
``SyncBatchNorm`` where several devices train together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Union

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddleseg_slim.channel_add import add_channels
from paddleseg_slim.errors import UserError

Size = Union[int, Sequence[int]]
Padding = Union[int, str, Sequence[int]]


def spatial_size(x: Tensor, data_format: str = "NCHW") -> Any:
    """Return height and width of a 4-D tensor: two ints in eager mode, an int tensor ``[2]`` while being traced.

    The traced form keeps a dynamic height and width dynamic.
    """
    axis = data_format.index("H")
    if paddle.in_dynamic_mode():
        return x.shape[axis : axis + 2]
    return paddle.shape(x)[axis : axis + 2]


def resize_to(x: Tensor, size: Any, align_corners: bool = False, data_format: str = "NCHW") -> Tensor:
    """Resize ``x`` bilinearly to ``size``, what :func:`spatial_size` returned for another tensor."""
    return F.interpolate(x, size, mode="bilinear", align_corners=align_corners, data_format=data_format)


def feature_channels(backbone: nn.Layer, indices: Sequence[int]) -> list[int]:
    """Return the channels of the feature maps of ``backbone`` that a head reads.

    Raises:
        UserError: the backbone has no such feature map.
    """
    channels = list(backbone.feat_channels)
    absent = [i for i in indices if not -len(channels) <= i < len(channels)]
    if absent:
        raise UserError(
            f"backbone_indices names feature map {absent[0]}; {type(backbone).__name__} has {len(channels)}.",
            f"Use indices from {-len(channels)} to {len(channels) - 1}.",
        )
    return [channels[i] for i in indices]


class Conv2D(nn.Conv2D):
    """``nn.Conv2D`` whose bias costs little on a CPU (:mod:`paddleseg_slim.channel_add`)."""

    def forward(self, x: Tensor) -> Tensor:
        """``[N, in, H, W]`` -> ``[N, out, H', W']``."""
        if self.bias is None or self._data_format != "NCHW" or self._padding_mode != "zeros":
            return super().forward(x)
        y = F.conv2d(x, self.weight, None, self._stride, self._padding, self._dilation, self._groups)
        return add_channels(y, self.bias.reshape([1, -1, 1, 1]))


class ConvBN(nn.Layer):
    """Convolution and BatchNorm.

    Args:
        in_channels: input channels.
        out_channels: output channels.
        kernel_size: of the convolution.
        padding: of the convolution; ``"same"`` pads so that the output has ``ceil(input / stride)`` pixels, one more
            pixel at the bottom and right where the padding is odd.
        **conv: further arguments of ``nn.Conv2D``: ``stride``, ``dilation``, ``groups``, ``bias_attr``,
            ``data_format``.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Size, padding: Padding = "same", **conv: Any
    ) -> None:
        super().__init__()
        self._conv = Conv2D(in_channels, out_channels, kernel_size, padding=padding, **conv)
        self._batch_norm = nn.BatchNorm2D(out_channels, data_format=conv.get("data_format", "NCHW"))

    def forward(self, x: Tensor) -> Tensor:
        """``[N, in, H, W]`` -> ``[N, out, H', W']``."""
        return self._batch_norm(self._conv(x))


class ConvBNReLU(ConvBN):
    """Convolution, BatchNorm and ReLU; arguments as of :class:`ConvBN`."""

    def forward(self, x: Tensor) -> Tensor:
        """``[N, in, H, W]`` -> ``[N, out, H', W']``."""
        return F.relu(super().forward(x))


class DepthwiseConvBN(nn.Layer):
    """Convolution of each input channel by itself, and BatchNorm; ``out_channels`` is a multiple of ``in_channels``."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Size, padding: Padding = "same", **conv: Any
    ) -> None:
        super().__init__()
        self.depthwise_conv = ConvBN(in_channels, out_channels, kernel_size, padding, groups=in_channels, **conv)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, in, H, W]`` -> ``[N, out, H', W']``."""
        return self.depthwise_conv(x)


class SeparableConvBNReLU(nn.Layer):
    """Depthwise convolution + BatchNorm, then pointwise convolution + BatchNorm + ReLU (Xception, Chollet 2017).

    Args:
        in_channels: input channels.
        out_channels: output channels.
        kernel_size: of the depthwise convolution.
        padding: of the depthwise convolution.
        pointwise_bias: ``bias_attr`` of the pointwise convolution; None gives it a bias.
        **conv: further arguments of the depthwise convolution; ``data_format`` goes to both.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        padding: Padding = "same",
        pointwise_bias: bool | None = None,
        **conv: Any,
    ) -> None:
        super().__init__()
        data_format = conv.get("data_format", "NCHW")
        self.depthwise_conv = ConvBN(in_channels, in_channels, kernel_size, padding, groups=in_channels, **conv)
        self.piontwise_conv = ConvBNReLU(
            in_channels, out_channels, 1, bias_attr=pointwise_bias, data_format=data_format
        )

    def forward(self, x: Tensor) -> Tensor:
        """``[N, in, H, W]`` -> ``[N, out, H', W']``."""
        return self.piontwise_conv(self.depthwise_conv(x))


class AuxLayer(nn.Layer):
    """Head for an auxiliary loss: 3x3 ConvBNReLU, dropout, 1x1 convolution to ``out_channels`` (the classes)."""

    def __init__(
        self, in_channels: int, inter_channels: int, out_channels: int, dropout_prob: float = 0.1, **conv: Any
    ) -> None:
        super().__init__()
        self.conv_bn_relu = ConvBNReLU(in_channels, inter_channels, 3, padding=1, **conv)
        self.dropout = nn.Dropout(dropout_prob)
        self.conv = Conv2D(inter_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, in, H, W]`` -> logits ``[N, out, H, W]``."""
        return self.conv(self.dropout(self.conv_bn_relu(x)))


class PPModule(nn.Layer):
    """Pyramid pooling: means over grids of several sizes, each reduced, resized back and joined (PSPNet, Zhao 2017).

    Args:
        in_channels: input channels.
        out_channels: output channels.
        bin_sizes: edge of each grid.
        dim_reduction: whether each level is reduced to ``in_channels // len(bin_sizes)`` channels.
        align_corners: of the resizing.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        bin_sizes: Sequence[int],
        dim_reduction: bool,
        align_corners: bool,
    ) -> None:
        super().__init__()
        level_channels = in_channels // len(bin_sizes) if dim_reduction else in_channels
        self.stages = nn.LayerList(
            [
                nn.Sequential(nn.AdaptiveAvgPool2D(bins), ConvBNReLU(in_channels, level_channels, 1))
                for bins in bin_sizes
            ]
        )
        joined = in_channels + level_channels * len(bin_sizes)
        self.conv_bn_relu2 = ConvBNReLU(joined, out_channels, 3, padding=1)
        self.align_corners = align_corners

    def forward(self, x: Tensor) -> Tensor:
        """``[N, in, H, W]`` -> ``[N, out, H, W]``; the finest grid is joined first."""
        size = spatial_size(x)
        levels = [resize_to(stage(x), size, self.align_corners) for stage in self.stages]
        return self.conv_bn_relu2(paddle.concat([x, *reversed(levels)], axis=1))


class ASPPModule(nn.Layer):
    """Atrous spatial pyramid pooling: parallel dilated convolutions, joined (DeepLabV3, Chen 2017).

    Args:
        aspp_ratios: dilation of each branch; 1 gives a 1x1 convolution.
        in_channels: input channels.
        out_channels: output channels, also those of each branch.
        align_corners: of the resizing of the image-level features.
        use_sep_conv: whether the dilated branches are depthwise separable.
        image_pooling: whether a branch of image-level means is added.
        data_format: ``NCHW`` or ``NHWC``.
    """

    def __init__(
        self,
        aspp_ratios: Sequence[int],
        in_channels: int,
        out_channels: int,
        align_corners: bool,
        use_sep_conv: bool = False,
        image_pooling: bool = False,
        data_format: str = "NCHW",
    ) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.data_format = data_format
        self.image_pooling = image_pooling
        self.aspp_blocks = nn.LayerList()
        for ratio in aspp_ratios:
            block = SeparableConvBNReLU if use_sep_conv and ratio > 1 else ConvBNReLU
            kernel, padding = (1, 0) if ratio == 1 else (3, ratio)
            self.aspp_blocks.append(
                block(in_channels, out_channels, kernel, padding, dilation=ratio, data_format=data_format)
            )
        branches = len(self.aspp_blocks)
        if image_pooling:
            self.global_avg_pool = nn.Sequential(
                nn.AdaptiveAvgPool2D(1, data_format=data_format),
                ConvBNReLU(in_channels, out_channels, 1, bias_attr=False, data_format=data_format),
            )
            branches += 1
        self.conv_bn_relu = ConvBNReLU(out_channels * branches, out_channels, 1, data_format=data_format)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, in, H, W]`` -> ``[N, out, H, W]``, or the same in NHWC."""
        branches = [block(x) for block in self.aspp_blocks]
        if self.image_pooling:
            size = spatial_size(x, self.data_format)
            branches.append(resize_to(self.global_avg_pool(x), size, self.align_corners, self.data_format))
        joined = paddle.concat(branches, axis=self.data_format.index("C"))
        return self.dropout(self.conv_bn_relu(joined))
