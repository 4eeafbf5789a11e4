"""PP-HumanSeg-Lite: ShuffleNetV2-like units and one shortcut, 0.14 M parameters (Chu et al. 2021, arXiv:2112.07146)."""

from __future__ import annotations

from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddleseg_slim.models.layers import ConvBNReLU, SeparableConvBNReLU, resize_to, spatial_size
from paddleseg_slim.models.weights import init_convs, load_pretrained
from paddleseg_slim.registry import MODELS


@MODELS.register()
class PPHumanSegLite(nn.Layer):
    """PP-HumanSeg-Lite.

    Args:
        num_classes: number of classes.
        in_channels: channels of the image.
        pretrained: path or URL of weights of the whole model.
        align_corners: of the resizing of features and logits.
    """

    def __init__(
        self, num_classes: int, in_channels: int = 3, pretrained: str | None = None, align_corners: bool = False
    ) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.conv_bn0 = ConvBNReLU(in_channels, 36, 3, padding=1, stride=2, bias_attr=False)
        self.conv_bn1 = ConvBNReLU(36, 18, 1, padding=0, bias_attr=False)
        self.block1 = _stage(36, 72, units=4)
        self.block2 = _stage(72, 144, units=8)
        self.depthwise_separable0 = _separable(144, 64)
        self.depthwise_separable1 = _separable(64 + 18, 64)
        self.depthwise_separable2 = _separable(64, num_classes)
        init_convs(self, nn.initializer.Normal(std=0.001))
        load_pretrained(self, pretrained)

    def forward(self, x: Tensor) -> list[Tensor]:
        """``[N, in, H, W]`` -> one tensor of logits ``[N, classes, H, W]``; a ReLU makes them 0 or more."""
        size = spatial_size(x)
        half = self.conv_bn0(x)
        shortcut = self.conv_bn1(half)
        quarter = F.max_pool2d(half, kernel_size=3, stride=2, padding=1)
        deep = self.depthwise_separable0(self.block2(self.block1(quarter)))
        deep = resize_to(deep, spatial_size(shortcut), self.align_corners)
        joined = paddle.concat([shortcut, deep], axis=1)
        logit = self.depthwise_separable2(self.depthwise_separable1(joined))
        return [resize_to(logit, size, self.align_corners)]


def _separable(in_channels: int, out_channels: int, **conv: Any) -> SeparableConvBNReLU:
    return SeparableConvBNReLU(in_channels, out_channels, 3, padding=1, pointwise_bias=False, bias_attr=False, **conv)


def _stage(in_channels: int, out_channels: int, units: int) -> nn.Sequential:
    others = [InvertedResidual(out_channels, out_channels, stride=1) for _ in range(units - 1)]
    return nn.Sequential(InvertedResidual(in_channels, out_channels, stride=2), *others)


class InvertedResidual(nn.Layer):
    """A unit of ShuffleNetV2 (Ma et al. 2018): two halves of the channels, one filtered, then interleaved.

    With stride 1 the other half passes unchanged; with stride 2 both halves are computed from the whole input, and the
    filtered one is halved in size by its second convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        half = out_channels // 2
        self.stride = stride
        # With stride 1 nothing uses this layer; it is there because the published weights hold it.
        self._depthwise_separable_0 = _separable(in_channels, half, stride=stride)
        self._conv = ConvBNReLU(in_channels if stride == 2 else in_channels // 2, half, 1, bias_attr=False)
        self._depthwise_separable_1 = _separable(half, half, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, in, h, w]`` -> ``[N, out, h/stride, w/stride]``."""
        if self.stride == 1:
            passed, branch = paddle.split(x, 2, axis=1)
        else:
            passed, branch = self._depthwise_separable_0(x), x
        filtered = self._depthwise_separable_1(self._conv(branch))
        # Stacked behind the channel axis and flattened: channel 2i is passed[i], 2i+1 filtered[i], with no transpose.
        return paddle.flatten(paddle.stack([passed, filtered], axis=2), 1, 2)
