"""DeepLabV3 and DeepLabV3+: atrous spatial pyramid pooling (Chen et al. 2017, arXiv:1706.05587; 2018, 1802.02611)."""

from __future__ import annotations

from collections.abc import Sequence

import paddle
from paddle import Tensor, nn

from paddleseg_slim.models.features import exactly
from paddleseg_slim.models.layers import ASPPModule, Conv2D, ConvBNReLU, SeparableConvBNReLU, resize_to, spatial_size
from paddleseg_slim.models.weights import load_pretrained
from paddleseg_slim.registry import MODELS


@MODELS.register()
class DeepLabV3P(nn.Layer):
    """DeepLabV3+: the pyramid's output is refined with features of a higher resolution.

    Args:
        num_classes: number of classes.
        backbone: a layer that returns several feature maps and has ``feat_channels``.
        backbone_indices: which features refine, and which the pyramid takes.
        aspp_ratios: dilations of the pyramid: (1, 6, 12, 18) at output stride 16, (1, 12, 24, 36) at 8.
        aspp_out_channels: channels of the pyramid; the decoder is made for 256.
        align_corners: of the resizing of features and logits.
        pretrained: path or URL of weights of the whole model.
        data_format: ``NCHW`` or ``NHWC``, that of the backbone.
    """

    def __init__(
        self,
        num_classes: int,
        backbone: nn.Layer,
        backbone_indices: Sequence[int] = (0, 3),
        aspp_ratios: Sequence[int] = (1, 6, 12, 18),
        aspp_out_channels: int = 256,
        align_corners: bool = False,
        pretrained: str | None = None,
        data_format: str = "NCHW",
    ) -> None:
        super().__init__()
        channels = exactly(2, backbone, backbone_indices)
        self.backbone = backbone
        self.head = DeepLabV3PHead(
            num_classes, backbone_indices, channels, aspp_ratios, aspp_out_channels, align_corners, data_format
        )
        self.align_corners = align_corners
        self.data_format = data_format
        load_pretrained(self, pretrained)

    def forward(self, x: Tensor) -> list[Tensor]:
        """``[N, in, H, W]`` -> one tensor of logits ``[N, classes, H, W]``."""
        logits = self.head(self.backbone(x))
        return [resize_to(logits, spatial_size(x, self.data_format), self.align_corners, self.data_format)]


class DeepLabV3PHead(nn.Layer):
    """The pyramid and the decoder of DeepLabV3+."""

    def __init__(
        self,
        num_classes: int,
        backbone_indices: Sequence[int],
        backbone_channels: Sequence[int],
        aspp_ratios: Sequence[int],
        aspp_out_channels: int,
        align_corners: bool,
        data_format: str,
    ) -> None:
        super().__init__()
        self.aspp = ASPPModule(
            aspp_ratios,
            backbone_channels[1],
            aspp_out_channels,
            align_corners,
            use_sep_conv=True,
            image_pooling=True,
            data_format=data_format,
        )
        self.decoder = Decoder(num_classes, backbone_channels[0], aspp_out_channels, align_corners, data_format)
        self.backbone_indices = tuple(backbone_indices)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Features of the backbone -> logits at the resolution of the first of its indices."""
        fine, coarse = (features[index] for index in self.backbone_indices)
        return self.decoder(self.aspp(coarse), fine)


class Decoder(nn.Layer):
    """Joins the pyramid's output, resized, with 48 channels of finer features; two separable convolutions follow."""

    def __init__(
        self, num_classes: int, in_channels: int, aspp_channels: int, align_corners: bool, data_format: str
    ) -> None:
        super().__init__()
        self.conv_bn_relu1 = ConvBNReLU(in_channels, 48, 1, data_format=data_format)
        self.conv_bn_relu2 = SeparableConvBNReLU(48 + aspp_channels, 256, 3, padding=1, data_format=data_format)
        self.conv_bn_relu3 = SeparableConvBNReLU(256, 256, 3, padding=1, data_format=data_format)
        self.conv = Conv2D(256, num_classes, 1, data_format=data_format)
        self.align_corners = align_corners
        self.data_format = data_format

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        """``[N, aspp, h, w]`` and ``[N, in, H, W]`` -> logits ``[N, classes, H, W]``."""
        fine = self.conv_bn_relu1(fine)
        coarse = resize_to(coarse, spatial_size(fine, self.data_format), self.align_corners, self.data_format)
        joined = paddle.concat([coarse, fine], axis=self.data_format.index("C"))
        return self.conv(self.conv_bn_relu3(self.conv_bn_relu2(joined)))


@MODELS.register()
class DeepLabV3(nn.Layer):
    """DeepLabV3: logits from the pyramid itself.

    Args:
        num_classes: number of classes.
        backbone: a layer that returns several feature maps and has ``feat_channels``.
        backbone_indices: which feature map the pyramid takes.
        aspp_ratios: dilations of the pyramid: (1, 6, 12, 18) at output stride 16, (1, 12, 24, 36) at 8.
        aspp_out_channels: channels of the pyramid.
        align_corners: of the resizing of features and logits.
        pretrained: path or URL of weights of the whole model.
    """

    def __init__(
        self,
        num_classes: int,
        backbone: nn.Layer,
        backbone_indices: Sequence[int] = (3,),
        aspp_ratios: Sequence[int] = (1, 6, 12, 18),
        aspp_out_channels: int = 256,
        align_corners: bool = False,
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        channels = exactly(1, backbone, backbone_indices)
        self.backbone = backbone
        self.head = DeepLabV3Head(
            num_classes, backbone_indices, channels, aspp_ratios, aspp_out_channels, align_corners
        )
        self.align_corners = align_corners
        load_pretrained(self, pretrained)

    def forward(self, x: Tensor) -> list[Tensor]:
        """``[N, in, H, W]`` -> one tensor of logits ``[N, classes, H, W]``."""
        return [resize_to(self.head(self.backbone(x)), spatial_size(x), self.align_corners)]


class DeepLabV3Head(nn.Layer):
    """The pyramid of DeepLabV3 and a 1x1 convolution."""

    def __init__(
        self,
        num_classes: int,
        backbone_indices: Sequence[int],
        backbone_channels: Sequence[int],
        aspp_ratios: Sequence[int],
        aspp_out_channels: int,
        align_corners: bool,
    ) -> None:
        super().__init__()
        self.aspp = ASPPModule(aspp_ratios, backbone_channels[0], aspp_out_channels, align_corners, image_pooling=True)
        self.cls = Conv2D(aspp_out_channels, num_classes, 1)
        self.backbone_indices = tuple(backbone_indices)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Features of the backbone -> logits at their resolution."""
        return self.cls(self.aspp(features[self.backbone_indices[0]]))
