"""FCN: one small head on a backbone's features (Shelhamer et al. 2016, arXiv:1605.06211)."""

from __future__ import annotations

from collections.abc import Sequence

from paddle import Tensor, nn

from paddleseg_slim.errors import UserError
from paddleseg_slim.models.layers import Conv2D, ConvBNReLU, feature_channels, resize_to, spatial_size
from paddleseg_slim.models.weights import init_convs, load_pretrained
from paddleseg_slim.registry import MODELS


@MODELS.register()
class FCN(nn.Layer):
    """FCN.

    Args:
        num_classes: number of classes.
        backbone: a layer that returns feature maps, with their channels in ``feat_channels``.
        backbone_indices: the one feature map the head reads.
        channels: channels inside the head; None for as many as the features have.
        align_corners: of the resizing of the logits.
        pretrained: path or URL of weights of the whole model.
        bias: whether the head's convolutions have biases.
        data_format: ``NCHW``.

    Raises:
        UserError: ``data_format`` is not NCHW, or ``backbone_indices`` is not one index of a feature map.
    """

    def __init__(
        self,
        num_classes: int,
        backbone: nn.Layer,
        backbone_indices: Sequence[int] = (-1,),
        channels: int | None = None,
        align_corners: bool = False,
        pretrained: str | None = None,
        bias: bool = True,
        data_format: str = "NCHW",
    ) -> None:
        super().__init__()
        if data_format != "NCHW":
            raise UserError(f"FCN cannot run in data_format {data_format!r}.", "Use NCHW.")
        if len(backbone_indices) != 1:
            raise UserError(f"FCN reads one feature map, backbone_indices is {list(backbone_indices)}.", "Name one.")
        in_channels = feature_channels(backbone, backbone_indices)[0]
        self.backbone = backbone
        self.backbone_index = backbone_indices[0]
        self.head = FCNHead(in_channels, channels or in_channels, num_classes, bias)
        self.align_corners = align_corners
        load_pretrained(self, pretrained)

    def forward(self, x: Tensor) -> list[Tensor]:
        """``[N, in, H, W]`` -> one tensor of logits ``[N, classes, H, W]``."""
        logit = self.head(self.backbone(x)[self.backbone_index])
        return [resize_to(logit, spatial_size(x), self.align_corners)]


class FCNHead(nn.Layer):
    """1x1 ConvBNReLU, 1x1 convolution to the classes."""

    def __init__(self, in_channels: int, channels: int, num_classes: int, bias: bool) -> None:
        super().__init__()
        self.conv_1 = ConvBNReLU(in_channels, channels, 1, bias_attr=bias)
        self.cls = Conv2D(channels, num_classes, 1, bias_attr=bias)
        init_convs(self, nn.initializer.Normal(std=0.001))

    def forward(self, x: Tensor) -> Tensor:
        """``[N, in, h, w]`` -> logits ``[N, classes, h, w]``."""
        return self.cls(self.conv_1(x))
