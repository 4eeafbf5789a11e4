"""Fast-SCNN: a shared shallow stem, a deep branch at 1/32, one fusion (Poudel et al. 2019, arXiv:1902.04502)."""

from __future__ import annotations

from collections.abc import Sequence

import paddle.nn.functional as F
from paddle import Tensor, nn

from paddleseg_slim.models.layers import (
    AuxLayer,
    Conv2D,
    ConvBN,
    ConvBNReLU,
    PPModule,
    SeparableConvBNReLU,
    resize_to,
    spatial_size,
)
from paddleseg_slim.models.weights import load_pretrained
from paddleseg_slim.registry import MODELS


@MODELS.register()
class FastSCNN(nn.Layer):
    """Fast-SCNN.

    Args:
        num_classes: number of classes.
        in_channels: channels of the image.
        enable_auxiliary_loss: whether a second head on the stem's features gives a second output, in training and in
            evaluation.
        align_corners: of the resizing of features and logits.
        pretrained: path or URL of weights of the whole model.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        enable_auxiliary_loss: bool = True,
        align_corners: bool = False,
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        self.learning_to_downsample = LearningToDownsample(in_channels, 32, 48, 64)
        self.global_feature_extractor = GlobalFeatureExtractor(64, (64, 96, 128), 128, expansion=6, blocks=3)
        self.feature_fusion = FeatureFusionModule(64, 128, 128, align_corners)
        self.classifier = Classifier(128, num_classes)
        if enable_auxiliary_loss:
            self.auxlayer = AuxLayer(64, 32, num_classes)
        self.enable_auxiliary_loss = enable_auxiliary_loss
        self.align_corners = align_corners
        load_pretrained(self, pretrained)

    def forward(self, x: Tensor) -> list[Tensor]:
        """``[N, in, H, W]`` -> logits ``[N, classes, H, W]``: main head, then the auxiliary one if there is one."""
        size = spatial_size(x)
        detail = self.learning_to_downsample(x)
        context = self.global_feature_extractor(detail)
        logits = [self.classifier(self.feature_fusion(detail, context))]
        if self.enable_auxiliary_loss:
            logits.append(self.auxlayer(detail))
        return [resize_to(logit, size, self.align_corners) for logit in logits]


class LearningToDownsample(nn.Layer):
    """The stem: three steps of stride 2, so ``[N, in, H, W]`` -> ``[N, out, H/8, W/8]``."""

    def __init__(self, in_channels: int, first: int, second: int, out_channels: int) -> None:
        super().__init__()
        self.conv_bn_relu = ConvBNReLU(in_channels, first, 3, stride=2)
        self.dsconv_bn_relu1 = SeparableConvBNReLU(first, second, 3, padding=1, stride=2)
        self.dsconv_bn_relu2 = SeparableConvBNReLU(second, out_channels, 3, padding=1, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Image -> features at 1/8."""
        return self.dsconv_bn_relu2(self.dsconv_bn_relu1(self.conv_bn_relu(x)))


class GlobalFeatureExtractor(nn.Layer):
    """The deep branch: three groups of inverted bottlenecks (strides 2, 2, 1) and pyramid pooling.

    Args:
        in_channels: channels of the stem.
        block_channels: channels of each group.
        out_channels: channels after the pooling.
        expansion: of each bottleneck.
        blocks: bottlenecks in a group.
    """

    def __init__(
        self, in_channels: int, block_channels: Sequence[int], out_channels: int, expansion: int, blocks: int
    ) -> None:
        super().__init__()
        sources = (in_channels, *block_channels)
        groups = [
            self._group(sources[i], sources[i + 1], expansion, blocks, stride) for i, stride in enumerate((2, 2, 1))
        ]
        self.bottleneck1, self.bottleneck2, self.bottleneck3 = groups
        # Always aligned, whatever the model's own align_corners: the published weights were trained so.
        self.ppm = PPModule(block_channels[2], out_channels, (1, 2, 3, 6), dim_reduction=True, align_corners=True)

    @staticmethod
    def _group(in_channels: int, out_channels: int, expansion: int, blocks: int, stride: int) -> nn.Sequential:
        first = InvertedBottleneck(in_channels, out_channels, expansion, stride)
        others = [InvertedBottleneck(out_channels, out_channels, expansion, 1) for _ in range(blocks - 1)]
        return nn.Sequential(first, *others)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, in, h, w]`` -> ``[N, out, h/4, w/4]``."""
        return self.ppm(self.bottleneck3(self.bottleneck2(self.bottleneck1(x))))


class InvertedBottleneck(nn.Layer):
    """Expand, filter each channel, project without activation; a shortcut where shapes allow it (MobileNetV2)."""

    def __init__(self, in_channels: int, out_channels: int, expansion: int, stride: int) -> None:
        super().__init__()
        inner = in_channels * expansion
        self.use_shortcut = stride == 1 and in_channels == out_channels
        self.block = nn.Sequential(
            ConvBNReLU(in_channels, inner, 1, bias_attr=False),
            ConvBNReLU(inner, inner, 3, padding=1, stride=stride, groups=inner, bias_attr=False),
            ConvBN(inner, out_channels, 1, bias_attr=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """``[N, in, h, w]`` -> ``[N, out, h/stride, w/stride]``."""
        return x + self.block(x) if self.use_shortcut else self.block(x)


class FeatureFusionModule(nn.Layer):
    """Bring the deep features to the size of the stem's, project both, add."""

    def __init__(self, high_in_channels: int, low_in_channels: int, out_channels: int, align_corners: bool) -> None:
        super().__init__()
        self.dwconv = ConvBNReLU(low_in_channels, out_channels, 3, padding=1, groups=low_in_channels, bias_attr=False)
        self.conv_low_res = ConvBN(out_channels, out_channels, 1)
        self.conv_high_res = ConvBN(high_in_channels, out_channels, 1)
        self.align_corners = align_corners

    def forward(self, high: Tensor, low: Tensor) -> Tensor:
        """``[N, high_in, h, w]``, ``[N, low_in, h/4, w/4]`` -> ``[N, out, h, w]``."""
        low = resize_to(low, spatial_size(high), self.align_corners)
        return F.relu(self.conv_high_res(high) + self.conv_low_res(self.dwconv(low)))


class Classifier(nn.Layer):
    """The head: two separable convolutions, dropout, 1x1 convolution to the classes."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.dsconv1 = SeparableConvBNReLU(in_channels, in_channels, 3, padding=1)
        self.dsconv2 = SeparableConvBNReLU(in_channels, in_channels, 3, padding=1)
        self.conv = Conv2D(in_channels, num_classes, 1)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, in, h, w]`` -> logits ``[N, classes, h, w]``."""
        return self.conv(self.dropout(self.dsconv2(self.dsconv1(x))))
