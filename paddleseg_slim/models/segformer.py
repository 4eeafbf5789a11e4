"""SegFormer: a Mix Transformer and a decoder of linear layers (Xie et al. 2021, arXiv:2105.15203)."""

from __future__ import annotations

import paddle
from paddle import Tensor, nn

from paddleseg_slim.models.layers import Conv2D, ConvBNReLU, feature_channels, resize_to, spatial_size
from paddleseg_slim.models.mix_transformer import to_map, to_tokens
from paddleseg_slim.models.weights import load_pretrained
from paddleseg_slim.registry import MODELS


@MODELS.register()
class SegFormer(nn.Layer):
    """SegFormer.

    Args:
        num_classes: number of classes.
        backbone: a layer that returns four feature maps and has ``feat_channels``.
        embedding_dim: channels of the decoder.
        align_corners: of the resizing of features and logits.
        pretrained: path or URL of weights of the whole model.
    """

    def __init__(
        self,
        num_classes: int,
        backbone: nn.Layer,
        embedding_dim: int,
        align_corners: bool = False,
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        channels = feature_channels(backbone, (0, 1, 2, 3))
        self.linear_c4, self.linear_c3, self.linear_c2, self.linear_c1 = (
            MLP(width, embedding_dim) for width in reversed(channels)
        )
        self.dropout = nn.Dropout2D(0.1)
        self.linear_fuse = ConvBNReLU(embedding_dim * 4, embedding_dim, 1, bias_attr=False)
        self.linear_pred = Conv2D(embedding_dim, num_classes, 1)
        self.align_corners = align_corners
        load_pretrained(self, pretrained)

    def forward(self, x: Tensor) -> list[Tensor]:
        """``[N, in, H, W]`` -> one tensor of logits ``[N, classes, H, W]``."""
        c1, c2, c3, c4 = self.backbone(x)
        size = spatial_size(c1)
        coarse = ((self.linear_c4, c4), (self.linear_c3, c3), (self.linear_c2, c2))
        maps = [resize_to(linear(feature), size, self.align_corners) for linear, feature in coarse]
        fused = self.linear_fuse(paddle.concat([*maps, self.linear_c1(c1)], axis=1))
        return [resize_to(self.linear_pred(self.dropout(fused)), spatial_size(x), self.align_corners)]


class MLP(nn.Layer):
    """A linear layer at each position: ``[N, in, H, W]`` -> ``[N, out, H, W]``."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.proj = nn.Linear(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, in, H, W]`` -> ``[N, out, H, W]``."""
        return to_map(self.proj(to_tokens(x)), spatial_size(x))
