"""Losses at the borders of objects: STDC's detail guidance, and cross-entropy where an edge branch sees an edge."""

from __future__ import annotations

from collections.abc import Sequence

import paddle
import paddle.nn.functional as F
from paddle import nn

from paddleseg_slim.losses.functional import mean_over, pixel_cross_entropy, squeeze_label, valid_mask
from paddleseg_slim.registry import LOSSES

STRIDES = {1: 0.6, 2: 0.3, 4: 0.1}
"""How much an edge found at each stride adds to the detail target."""
THRESHOLD = 0.1


@LOSSES.register()
class DetailAggregateLoss(nn.Layer):
    """Binary cross-entropy and Dice loss against the edges of the label (STDC, Fan et al. 2021, section 3.3).

    Edges are where a Laplacian of the label is positive, seen at strides 1, 2 and 4 and added with the paper's
    weights. (PaddleSeg draws those three weights at random and marks edges at ignored pixels too; without ignored
    pixels and with its weights set to the paper's, the values are the same.)

    Args:
        ignore_index: the label value of pixels that do not count and have no edges.
    """

    def __init__(self, ignore_index: int = 255) -> None:
        super().__init__()
        self.ignore_index = ignore_index
        kernel = paddle.full([1, 1, 3, 3], -1.0)
        kernel[0, 0, 1, 1] = 8.0
        self.kernel = kernel

    def forward(self, logits: paddle.Tensor, label: paddle.Tensor) -> paddle.Tensor:
        """Compute the loss from ``logits`` ``[N, 1, h, w]``, resized to the label, and ``label`` ``[N, H, W]``."""
        label = squeeze_label(label)
        mask = valid_mask(label, self.ignore_index).unsqueeze(1)
        target = self.edges(label, mask)
        if logits.shape[2:] != target.shape[2:]:
            logits = F.interpolate(logits, target.shape[2:], mode="bilinear", align_corners=True)
        cross_entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        probability = F.sigmoid(logits) * mask
        overlap = (probability * target).sum(axis=[1, 2, 3])
        size = probability.sum(axis=[1, 2, 3]) + target.sum(axis=[1, 2, 3])
        dice = (1 - (2 * overlap + 1) / (size + 1)).mean()
        return mean_over(cross_entropy, mask, 1e-8) + dice

    def edges(self, label: paddle.Tensor, mask: paddle.Tensor) -> paddle.Tensor:
        """Return the edges of ``label`` ``[N, H, W]``: 1.0 or 0.0, float32 ``[N, 1, H, W]``, 0 where ``mask`` is."""
        laplacian = F.conv2d(label.unsqueeze(1).astype("float32"), self.kernel, padding=1)
        finest = (laplacian > THRESHOLD).astype("float32") * mask
        total = paddle.zeros_like(finest)
        for stride, weight in STRIDES.items():
            seen = finest[:, :, ::stride, ::stride]
            total = total + weight * F.interpolate(seen, finest.shape[2:], mode="nearest")
        return ((total > THRESHOLD).astype("float32") * mask).detach()


@LOSSES.register()
class EdgeAttentionLoss(nn.Layer):
    """Cross-entropy over the pixels where the model's edge branch sees an edge (Gated-SCNN, Takikawa et al. 2019).

    Args:
        edge_threshold: edge score above which a pixel counts.
        ignore_index: the label value without a loss.
    """

    def __init__(self, edge_threshold: float = 0.8, ignore_index: int = 255) -> None:
        super().__init__()
        self.edge_threshold = edge_threshold
        self.ignore_index = ignore_index
        self.eps = 1e-10

    def forward(self, logits: Sequence[paddle.Tensor], label: paddle.Tensor) -> paddle.Tensor:
        """Compute the loss from the logits ``[N, C, H, W]``, the edge scores ``[N, 1, H, W]`` and the label."""
        segmentation, edge = logits[0], logits[1]
        label = squeeze_label(label)
        mask = valid_mask(label, self.ignore_index) * (edge.squeeze(1) > self.edge_threshold).astype("float32")
        return mean_over(pixel_cross_entropy(segmentation, label, self.ignore_index), mask, self.eps)
