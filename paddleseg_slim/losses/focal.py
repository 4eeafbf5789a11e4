"""Focal loss (Lin et al. 2017, "Focal Loss for Dense Object Detection"), for two classes and for many."""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import nn

from paddleseg_slim.losses.functional import (
    check_class_count,
    mean_over,
    pixel_cross_entropy,
    squeeze_label,
    valid_mask,
)
from paddleseg_slim.registry import LOSSES


@LOSSES.register()
class FocalLoss(nn.Layer):
    """Focal loss over the sigmoids of two channels, background and object.

    Args:
        alpha: weight of the positive target; the negative has ``1 - alpha``.
        gamma: exponent that quietens what is right already.
        ignore_index: the label value without a loss.
    """

    def __init__(self, alpha: float = 0.25, gamma: float = 2.0, ignore_index: int = 255) -> None:
        super().__init__()
        self.alpha = alpha
        self.gamma = gamma
        self.ignore_index = ignore_index
        self.eps = 1e-10

    def forward(self, logit: paddle.Tensor, label: paddle.Tensor) -> paddle.Tensor:
        """Compute the loss from ``logit`` ``[N, 2, H, W]`` and ``label`` ``[N, H, W]``; a scalar.

        Raises:
            UserError: the logits do not have two channels.
        """
        check_class_count(2, logit, "FocalLoss", "type: FocalLoss")
        label = squeeze_label(label)
        mask = valid_mask(label, self.ignore_index).unsqueeze(1)
        known = label * (label != self.ignore_index).astype("int64")
        target = F.one_hot(known, 2).transpose([0, 3, 1, 2])
        loss = F.sigmoid_focal_loss(logit, target, alpha=self.alpha, gamma=self.gamma, reduction="none")
        return (loss * mask).sum() / (2 * mask.sum() + self.eps)


@LOSSES.register()
class MultiClassFocalLoss(nn.Layer):
    """Focal loss over the softmax of any number of classes.

    Args:
        num_class: number of classes.
        alpha: factor of the whole loss.
        gamma: exponent that quietens what is right already.
        ignore_index: the label value without a loss.
    """

    def __init__(self, num_class: int, alpha: float = 1.0, gamma: float = 2.0, ignore_index: int = 255) -> None:
        super().__init__()
        self.num_class = num_class
        self.alpha = alpha
        self.gamma = gamma
        self.ignore_index = ignore_index
        self.eps = 1e-10

    def forward(self, logit: paddle.Tensor, label: paddle.Tensor) -> paddle.Tensor:
        """Compute the loss from ``logit`` ``[N, C, H, W]`` and ``label`` ``[N, H, W]``; a scalar.

        Raises:
            UserError: the logits do not have ``num_class`` channels.
        """
        check_class_count(self.num_class, logit, "MultiClassFocalLoss", "num_class")
        label = squeeze_label(label)
        cross_entropy = pixel_cross_entropy(logit, label, self.ignore_index)
        loss = self.alpha * (1 - paddle.exp(-cross_entropy)) ** self.gamma * cross_entropy
        return mean_over(loss, valid_mask(label, self.ignore_index), self.eps)
