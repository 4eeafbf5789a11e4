"""U-Net: four steps down, four up, each joined with its mirror image (Ronneberger et al. 2015, arXiv:1505.04597)."""

from __future__ import annotations

from collections.abc import Sequence

import paddle
from paddle import Tensor, nn

from paddleseg_slim.models.layers import Conv2D, ConvBNReLU, resize_to, spatial_size
from paddleseg_slim.models.weights import load_pretrained
from paddleseg_slim.registry import MODELS


@MODELS.register()
class UNet(nn.Layer):
    """U-Net with BatchNorm and padded convolutions.

    Args:
        num_classes: number of classes.
        align_corners: of the resizing of features.
        use_deconv: whether transposed convolutions enlarge the features, which needs a height and width that are
            multiples of 16; otherwise bilinear resizing.
        in_channels: channels of the image.
        pretrained: path or URL of weights of the whole model.
    """

    def __init__(
        self,
        num_classes: int,
        align_corners: bool = False,
        use_deconv: bool = False,
        in_channels: int = 3,
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        self.encode = Encoder(in_channels)
        self.decode = Decoder(align_corners, use_deconv)
        # One layer under two names: the published weights hold both.
        self.cls = self.conv = Conv2D(64, num_classes, 3, padding=1)
        load_pretrained(self, pretrained)

    def forward(self, x: Tensor) -> list[Tensor]:
        """``[N, in, H, W]`` -> one tensor of logits ``[N, classes, H, W]``."""
        return [self.cls(self.decode(self.encode(x)))]


class Encoder(nn.Layer):
    """Two convolutions at full size, then four times max pooling and two convolutions."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.double_conv = nn.Sequential(ConvBNReLU(in_channels, 64, 3), ConvBNReLU(64, 64, 3))
        self.down_sample_list = nn.LayerList(
            [
                nn.Sequential(nn.MaxPool2D(2, stride=2), ConvBNReLU(before, after, 3), ConvBNReLU(after, after, 3))
                for before, after in ((64, 128), (128, 256), (256, 512), (512, 512))
            ]
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Image -> features at 1, 1/2, 1/4, 1/8, 1/16."""
        features = [self.double_conv(x)]
        for down_sample in self.down_sample_list:
            features.append(down_sample(features[-1]))
        return features


class Decoder(nn.Layer):
    """Four steps of :class:`UpSampling`."""

    def __init__(self, align_corners: bool, use_deconv: bool) -> None:
        super().__init__()
        self.up_sample_list = nn.LayerList(
            [
                UpSampling(before, after, align_corners, use_deconv)
                for before, after in ((512, 256), (256, 128), (128, 64), (64, 64))
            ]
        )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """What :class:`Encoder` returns -> ``[N, 64, H, W]``."""
        *shortcuts, x = features
        for up_sample, shortcut in zip(self.up_sample_list, reversed(shortcuts)):
            x = up_sample(x, shortcut)
        return x


class UpSampling(nn.Layer):
    """Enlarge to the size of the shortcut, join, convolve twice; the shortcut has as many channels as the input."""

    def __init__(self, in_channels: int, out_channels: int, align_corners: bool, use_deconv: bool) -> None:
        super().__init__()
        self.align_corners = align_corners
        enlarged = out_channels // 2 if use_deconv else in_channels
        self.deconv = nn.Conv2DTranspose(in_channels, enlarged, 2, stride=2) if use_deconv else None
        self.double_conv = nn.Sequential(
            ConvBNReLU(in_channels + enlarged, out_channels, 3), ConvBNReLU(out_channels, out_channels, 3)
        )

    def forward(self, x: Tensor, shortcut: Tensor) -> Tensor:
        """``[N, in, h, w]``, ``[N, in, H, W]`` -> ``[N, out, H, W]``."""
        x = resize_to(x, spatial_size(shortcut), self.align_corners) if self.deconv is None else self.deconv(x)
        return self.double_conv(paddle.concat([x, shortcut], axis=1))
