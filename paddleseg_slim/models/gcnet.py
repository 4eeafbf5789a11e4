"""GCNet: one global context vector, added everywhere (Cao et al. 2019, arXiv:1904.11492)."""

from __future__ import annotations

from collections.abc import Sequence

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddleseg_slim.models.context_head import ContextHead
from paddleseg_slim.models.features import exactly
from paddleseg_slim.models.layers import Conv2D, ConvBNReLU, resize_to, spatial_size
from paddleseg_slim.models.weights import load_pretrained
from paddleseg_slim.registry import MODELS


@MODELS.register()
class GCNet(nn.Layer):
    """GCNet.

    Args:
        num_classes: number of classes.
        backbone: a layer that returns several feature maps and has ``feat_channels``.
        backbone_indices: which features the auxiliary head takes, and which the main one.
        gc_channels: channels of the head.
        ratio: channels inside the context block, as a share of ``gc_channels``.
        enable_auxiliary_loss: whether a second head gives a second output, in training and in evaluation.
        align_corners: of the resizing of the logits.
        pretrained: path or URL of weights of the whole model.
    """

    def __init__(
        self,
        num_classes: int,
        backbone: nn.Layer,
        backbone_indices: Sequence[int] = (2, 3),
        gc_channels: int = 512,
        ratio: float = 0.25,
        enable_auxiliary_loss: bool = True,
        align_corners: bool = False,
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        channels = exactly(2, backbone, backbone_indices)
        self.backbone = backbone
        self.head = GCNetHead(num_classes, backbone_indices, channels, gc_channels, ratio, enable_auxiliary_loss)
        self.align_corners = align_corners
        load_pretrained(self, pretrained)

    def forward(self, x: Tensor) -> list[Tensor]:
        """``[N, in, H, W]`` -> logits ``[N, classes, H, W]``: main head, then the auxiliary one if there is one."""
        size = spatial_size(x)
        return [resize_to(logit, size, self.align_corners) for logit in self.head(self.backbone(x))]


class GCNetHead(ContextHead):
    """The context block between two convolutions, beside the features themselves."""

    def __init__(
        self,
        num_classes: int,
        backbone_indices: Sequence[int],
        backbone_channels: Sequence[int],
        gc_channels: int,
        ratio: float,
        enable_auxiliary_loss: bool,
    ) -> None:
        auxiliary, main = backbone_channels
        super().__init__(backbone_indices)
        self.conv_bn_relu1 = ConvBNReLU(main, gc_channels, 3, padding=1)
        self.gc_block = GlobalContextBlock(gc_channels, ratio)
        self.conv_bn_relu2 = ConvBNReLU(gc_channels, gc_channels, 3, padding=1)
        self.conv_bn_relu3 = ConvBNReLU(main + gc_channels, gc_channels, 3, padding=1)
        self.add_classifiers(num_classes, auxiliary, gc_channels, enable_auxiliary_loss)

    def context(self, features: Tensor) -> Tensor:
        """``[N, main, H, W]`` -> ``[N, gc_channels, H, W]``."""
        context = self.conv_bn_relu2(self.gc_block(self.conv_bn_relu1(features)))
        return self.conv_bn_relu3(paddle.concat([features, context], axis=1))


class GlobalContextBlock(nn.Layer):
    """Adds to every position a transform of the mean feature, weighted by a learnt attention (figure 4d).

    Args:
        channels: of input and output.
        ratio: channels of the transform, as a share of ``channels``.
    """

    def __init__(self, channels: int, ratio: float) -> None:
        super().__init__()
        inner = int(channels * ratio)
        self.channels = channels
        self.conv_mask = Conv2D(channels, 1, 1)
        self.channel_add_conv = nn.Sequential(
            Conv2D(channels, inner, 1),
            nn.LayerNorm([inner, 1, 1]),
            nn.ReLU(),
            Conv2D(inner, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` -> ``[N, C, H, W]``."""
        attention = F.softmax(self.conv_mask(x).reshape([0, -1, 1]), axis=1)  # [N, H*W, 1]
        context = paddle.matmul(x.reshape([0, self.channels, -1]), attention)  # [N, C, 1]
        return x + self.channel_add_conv(context.unsqueeze(-1))
