"""Dice loss."""

from __future__ import annotations

from collections.abc import Sequence

import paddle
import paddle.nn.functional as F
from paddle import nn

from paddleseg_slim.losses.functional import check_class_count, class_weights, squeeze_label, valid_mask
from paddleseg_slim.registry import LOSSES


@LOSSES.register()
class DiceLoss(nn.Layer):
    """One minus the Dice coefficient of probabilities and labels, of each image and class, averaged (Milletari 2016).

    Args:
        weight: a factor for each class, ``[C]``.
        ignore_index: the label value of pixels that do not count.
        smooth: added to numerator and denominator.
    """

    def __init__(
        self, weight: Sequence[float] | paddle.Tensor | None = None, ignore_index: int = 255, smooth: float = 1.0
    ) -> None:
        super().__init__()
        self.weight = class_weights(weight)
        self.ignore_index = ignore_index
        self.smooth = smooth
        self.eps = 1e-8

    def forward(self, logits: paddle.Tensor, labels: paddle.Tensor) -> paddle.Tensor:
        """Compute the loss from ``logits`` ``[N, C, H, W]`` and ``labels`` ``[N, H, W]``; a scalar."""
        classes = logits.shape[1]
        labels = squeeze_label(labels)
        mask = valid_mask(labels, self.ignore_index).unsqueeze(1)
        known = labels * (labels != self.ignore_index).astype("int64")
        target = F.one_hot(known, classes).transpose([0, 3, 1, 2]) * mask
        probability = F.softmax(logits, axis=1) * mask
        overlap = (probability * target).sum(axis=[2, 3])  # [N, C]
        size = probability.sum(axis=[2, 3]) + target.sum(axis=[2, 3])
        loss = 1 - (2 * overlap + self.smooth) / (size + self.smooth + self.eps)
        if self.weight is not None:
            check_class_count(len(self.weight), logits, "DiceLoss", "weight")
            loss = loss * self.weight
        return loss.mean()
