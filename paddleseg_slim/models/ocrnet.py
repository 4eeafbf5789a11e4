"""OCRNet: each pixel looks at the mean features of each class (Yuan et al. 2020, arXiv:1909.11065)."""

from __future__ import annotations

from collections.abc import Sequence

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddleseg_slim.errors import UserError
from paddleseg_slim.models.layers import Conv2D, ConvBNReLU, feature_channels, resize_to, spatial_size
from paddleseg_slim.models.weights import init_convs, load_pretrained
from paddleseg_slim.registry import MODELS


@MODELS.register()
class OCRNet(nn.Layer):
    """OCRNet.

    Args:
        num_classes: number of classes.
        backbone: a layer that returns feature maps, with their channels in ``feat_channels``.
        backbone_indices: the feature maps read: the one of the first, rough segmentation and the one of the pixels;
            a single one serves both.
        ocr_mid_channels: channels of the pixels' and the classes' features.
        ocr_key_channels: channels that pixels and classes are compared in.
        align_corners: of the resizing of the logits.
        pretrained: path or URL of weights of the whole model.

    Raises:
        UserError: ``backbone_indices`` is not one or two indices of feature maps.
    """

    def __init__(
        self,
        num_classes: int,
        backbone: nn.Layer,
        backbone_indices: Sequence[int],
        ocr_mid_channels: int = 512,
        ocr_key_channels: int = 256,
        align_corners: bool = False,
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        if len(backbone_indices) not in (1, 2):
            raise UserError(
                f"OCRNet reads 1 or 2 feature maps, backbone_indices is {list(backbone_indices)}.", "Name 2."
            )
        in_channels = feature_channels(backbone, backbone_indices)
        self.backbone = backbone
        self.backbone_indices = (backbone_indices[0], backbone_indices[-1])
        self.head = OCRHead(num_classes, in_channels[0], in_channels[-1], ocr_mid_channels, ocr_key_channels)
        self.align_corners = align_corners
        load_pretrained(self, pretrained)

    def forward(self, x: Tensor) -> list[Tensor]:
        """``[N, in, H, W]`` -> logits ``[N, classes, H, W]``: the final ones; in training the rough ones too."""
        features = self.backbone(x)
        shallow, deep = (features[i] for i in self.backbone_indices)
        logits = self.head(shallow, deep)
        if not self.training:
            logits = logits[:1]
        size = spatial_size(x)
        return [resize_to(logit, size, self.align_corners) for logit in logits]


class OCRHead(nn.Layer):
    """Rough segmentation, features of each class by it, attention of the pixels to the classes.

    Args:
        num_classes: number of classes.
        shallow_channels: of the features of the rough segmentation.
        deep_channels: of the features of the pixels.
        mid_channels: of the pixels' and the classes' features.
        key_channels: that pixels and classes are compared in.
    """

    def __init__(
        self, num_classes: int, shallow_channels: int, deep_channels: int, mid_channels: int, key_channels: int
    ) -> None:
        super().__init__()
        self.spatial_ocr = SpatialOCRModule(mid_channels, key_channels, mid_channels)
        self.conv3x3_ocr = ConvBNReLU(deep_channels, mid_channels, 3, padding=1)
        self.cls_head = Conv2D(mid_channels, num_classes, 1)
        self.aux_head = nn.Sequential(
            ConvBNReLU(shallow_channels, shallow_channels, 1), Conv2D(shallow_channels, num_classes, 1)
        )
        init_convs(self, nn.initializer.Normal(std=0.001))

    def forward(self, shallow: Tensor, deep: Tensor) -> list[Tensor]:
        """``[N, shallow, h, w]``, ``[N, deep, h, w]`` -> final and rough logits, both ``[N, classes, h, w]``."""
        rough = self.aux_head(shallow)
        pixels = self.conv3x3_ocr(deep)
        classes = class_features(pixels, rough)
        return [self.cls_head(self.spatial_ocr(pixels, classes)), rough]


def class_features(pixels: Tensor, logits: Tensor) -> Tensor:
    """Mean features of each class, pixels weighed by a softmax over the image (equation 2).

    ``[N, C, h, w]``, ``[N, K, h, w]`` -> ``[N, C, K, 1]``.
    """
    weights = F.softmax(paddle.flatten(logits, 2), axis=2)
    means = paddle.matmul(paddle.flatten(pixels, 2), weights, transpose_y=True)
    return paddle.unsqueeze(means, -1)


class SpatialOCRModule(nn.Layer):
    """Join each pixel's features with what it draws from the classes' features."""

    def __init__(self, in_channels: int, key_channels: int, out_channels: int, dropout_rate: float = 0.1) -> None:
        super().__init__()
        self.attention_block = ObjectAttentionBlock(in_channels, key_channels)
        self.conv1x1 = nn.Sequential(ConvBNReLU(2 * in_channels, out_channels, 1), nn.Dropout2D(dropout_rate))

    def forward(self, pixels: Tensor, classes: Tensor) -> Tensor:
        """``[N, C, h, w]``, ``[N, C, K, 1]`` -> ``[N, out, h, w]``."""
        context = self.attention_block(pixels, classes)
        return self.conv1x1(paddle.concat([context, pixels], axis=1))


class ObjectAttentionBlock(nn.Layer):
    """Attention with pixels as queries and classes as keys and values (equations 3 and 4)."""

    def __init__(self, in_channels: int, key_channels: int) -> None:
        super().__init__()
        self.key_channels = key_channels
        self.f_pixel = nn.Sequential(
            ConvBNReLU(in_channels, key_channels, 1), ConvBNReLU(key_channels, key_channels, 1)
        )
        self.f_object = nn.Sequential(
            ConvBNReLU(in_channels, key_channels, 1), ConvBNReLU(key_channels, key_channels, 1)
        )
        self.f_down = ConvBNReLU(in_channels, key_channels, 1)
        self.f_up = ConvBNReLU(key_channels, in_channels, 1)

    def forward(self, pixels: Tensor, classes: Tensor) -> Tensor:
        """``[N, C, h, w]``, ``[N, C, K, 1]`` -> ``[N, C, h, w]``."""
        size = spatial_size(pixels)
        queries = paddle.flatten(self.f_pixel(pixels), 2)
        keys = paddle.flatten(self.f_object(classes), 2)
        values = paddle.flatten(self.f_down(classes), 2)
        attention = F.softmax(paddle.matmul(queries, keys, transpose_x=True) * self.key_channels**-0.5, axis=-1)
        context = paddle.matmul(values, attention, transpose_y=True)
        return self.f_up(paddle.reshape(context, [0, self.key_channels, size[0], size[1]]))
