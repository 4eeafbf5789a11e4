"""Cross-entropy over pixels, and its two variants that learn from the hard pixels only."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import paddle
from paddle import nn

from paddleseg_slim.errors import UserError
from paddleseg_slim.losses.functional import (
    check_class_count,
    class_weights,
    mean_over,
    pixel_cross_entropy,
    squeeze_label,
    valid_mask,
)
from paddleseg_slim.registry import LOSSES


@LOSSES.register()
class CrossEntropyLoss(nn.Layer):
    """Cross-entropy, averaged over the pixels that are not ignored.

    Args:
        weight: a factor for each class, ``[C]``; the mean is then the weighted one.
        ignore_index: the label value without a loss.
        top_k_percent_pixels: share, in (0, 1], of the pixels that count: those with the largest loss.
        avg_non_ignore: divide by the number of pixels that are not ignored; otherwise by the number of all pixels.
        data_format: ``NCHW`` or ``NHWC``, the layout of the logits.

    Raises:
        UserError: an argument is out of its range.
    """

    def __init__(
        self,
        weight: Sequence[float] | np.ndarray | paddle.Tensor | None = None,
        ignore_index: int = 255,
        top_k_percent_pixels: float = 1.0,
        avg_non_ignore: bool = True,
        data_format: str = "NCHW",
    ) -> None:
        super().__init__()
        if not 0 < top_k_percent_pixels <= 1:
            raise UserError(
                f"CrossEntropyLoss: `top_k_percent_pixels` is {top_k_percent_pixels}.",
                "It is a share of the pixels: more than 0, at most 1.",
            )
        if data_format not in ("NCHW", "NHWC"):
            raise UserError(f"CrossEntropyLoss: `data_format` is {data_format!r}.", "Use NCHW or NHWC.")
        self.ignore_index = ignore_index
        self.top_k_percent_pixels = top_k_percent_pixels
        self.avg_non_ignore = avg_non_ignore
        self.data_format = data_format
        self.weight = class_weights(weight)
        self.eps = 1e-8

    def forward(
        self, logit: paddle.Tensor, label: paddle.Tensor, semantic_weights: paddle.Tensor | None = None
    ) -> paddle.Tensor:
        """Compute the loss.

        Args:
            logit: ``[N, C]`` or ``[N, C, H, W]`` (``[N, H, W, C]`` for NHWC).
            label: integers ``[N]``, ``[N, H, W]`` or ``[N, 1, H, W]``.
            semantic_weights: a factor for each pixel, the label's shape.

        Returns:
            A scalar.
        """
        if self.data_format == "NHWC" and logit.ndim == 4:
            logit = logit.transpose([0, 3, 1, 2])
        label = squeeze_label(label)
        loss = pixel_cross_entropy(logit, label, self.ignore_index)
        mask = valid_mask(label, self.ignore_index)
        coefficient = paddle.ones_like(mask)
        if self.weight is not None:
            check_class_count(len(self.weight), logit, "CrossEntropyLoss", "weight")
            # an ignored pixel is looked up as class 0; its loss is 0 whatever the weight
            coefficient = paddle.gather(self.weight, (label * mask.astype("int64")).flatten()).reshape(label.shape)
            loss = loss * coefficient
        if semantic_weights is not None:
            loss = loss * semantic_weights
        if self.top_k_percent_pixels < 1:
            count = int(self.top_k_percent_pixels * math.prod(loss.shape))
            loss, hardest = paddle.topk(loss.flatten(), count)
            return loss.mean() / (paddle.gather(coefficient.flatten(), hardest).mean() + self.eps)
        counted = mask * coefficient if self.avg_non_ignore else coefficient
        return loss.mean() / (counted.mean() + self.eps)


@LOSSES.register()
class OhemCrossEntropyLoss(nn.Layer):
    """Cross-entropy over the hard pixels of the batch: online hard example mining (Shrivastava et al. 2016).

    A pixel is kept when the probability of its true class is under ``thresh``; when fewer than ``min_kept`` pixels
    are, the threshold is raised to the probability of the ``min_kept``-th hardest. With ``min_kept`` 0, or not below
    the number of labelled pixels, all labelled pixels count (as in PaddleSeg).

    Args:
        thresh: probability in [0, 1].
        min_kept: pixels in the batch.
        ignore_index: the label value without a loss.
    """

    def __init__(self, thresh: float = 0.7, min_kept: int = 10000, ignore_index: int = 255) -> None:
        super().__init__()
        self.thresh = thresh
        self.min_kept = min_kept
        self.ignore_index = ignore_index
        self.eps = 1e-5

    def forward(self, logit: paddle.Tensor, label: paddle.Tensor) -> paddle.Tensor:
        """Compute the loss from ``logit`` ``[N, C, H, W]`` and ``label`` ``[N, H, W]``; a scalar."""
        label = squeeze_label(label)
        loss = pixel_cross_entropy(logit, label, self.ignore_index)
        mask = valid_mask(label, self.ignore_index)
        if self.min_kept > 0:
            mask = mask * self._hard(loss.detach(), mask)
        return mean_over(loss, mask, self.eps)

    def _hard(self, loss: paddle.Tensor, mask: paddle.Tensor) -> paddle.Tensor:
        """Return 1.0 for the pixels to keep.

        A probability under a threshold is a loss over its negative logarithm, so that one softmax serves for both;
        everything stays on the device.
        """
        ranked = paddle.where(mask > 0, loss, paddle.full_like(loss, -1.0)).flatten()
        hardest = paddle.topk(ranked, min(self.min_kept, ranked.shape[0]), sorted=False)[0]
        limit = -math.log(self.thresh) if self.thresh > 0 else math.inf
        enough = (mask.sum() > self.min_kept).astype(loss.dtype)
        floor = paddle.clip(hardest.min(), max=limit) * enough - (1 - enough)  # -1: keep all
        return (loss > floor).astype("float32")


@LOSSES.register()
class BootstrappedCrossEntropyLoss(nn.Layer):
    """Cross-entropy over the pixels of each image whose loss is above a threshold, at least ``min_K`` of them.

    Pohlen et al. 2017, "Full-Resolution Residual Networks", section 4.

    Args:
        min_K: pixels of an image that always count.
        loss_th: the loss above which a pixel counts.
        weight: a factor for each class, ``[C]``.
        ignore_index: the label value without a loss.
    """

    def __init__(
        self,
        min_K: int,
        loss_th: float,
        weight: Sequence[float] | np.ndarray | paddle.Tensor | None = None,
        ignore_index: int = 255,
    ) -> None:
        super().__init__()
        self.min_kept = min_K
        self.threshold = loss_th
        self.weight = class_weights(weight)
        self.ignore_index = ignore_index

    def forward(self, logit: paddle.Tensor, label: paddle.Tensor) -> paddle.Tensor:
        """Compute the loss from ``logit`` ``[N, C, H, W]`` and ``label`` ``[N, H, W]``; a scalar."""
        label = squeeze_label(label)
        loss = pixel_cross_entropy(logit, label, self.ignore_index)
        if self.weight is not None:
            check_class_count(len(self.weight), logit, "BootstrappedCrossEntropyLoss", "weight")
            known = label * (label != self.ignore_index).astype("int64")
            loss = loss * paddle.gather(self.weight, known.flatten()).reshape(label.shape)
        ranked = paddle.sort(loss.flatten(1), axis=1, descending=True)  # [N, H*W]
        pixels = ranked.shape[1]
        above = (ranked > self.threshold).astype(ranked.dtype)
        first = (paddle.arange(pixels) < self.min_kept).astype(ranked.dtype)
        many = (ranked[:, min(self.min_kept, pixels - 1)] > self.threshold).astype(ranked.dtype).unsqueeze(1)
        kept = (many * above + (1 - many) * first).detach()
        return ((ranked * kept).sum(axis=1) / kept.sum(axis=1)).mean()
