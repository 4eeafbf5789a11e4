"""Kullback-Leibler divergence of two sets of logits (distillation)."""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import nn

from paddleseg_slim.losses.functional import mean_over, squeeze_label, valid_mask
from paddleseg_slim.registry import LOSSES


@LOSSES.register()
class KLLoss(nn.Layer):
    """Divergence of the first logits (student) from the second (teacher), softened (Hinton et al. 2015).

    Args:
        ignore_index: the label value of pixels that do not count, where a label is given.
        temperature: divides the logits; the loss is multiplied by its square.
    """

    between_outputs = True
    """As one of the losses of a model, it compares the model's first two outputs."""

    def __init__(self, ignore_index: int = 255, temperature: float = 1) -> None:
        super().__init__()
        self.ignore_index = ignore_index
        self.temperature = temperature
        self.eps = 1e-8

    def forward(
        self, logit_1: paddle.Tensor, logit_2: paddle.Tensor, label: paddle.Tensor | None = None
    ) -> paddle.Tensor:
        """Compute the loss.

        Args:
            logit_1: ``[N, C, ...]``, the student's.
            logit_2: the teacher's, the same shape.
            label: ``[N, ...]``; without it every position counts.

        Returns:
            A scalar: the mean over positions and channels.

        Raises:
            ValueError: the shapes differ.
        """
        if logit_1.shape != logit_2.shape:
            raise ValueError(f"KLLoss: logits of shape {logit_1.shape} and {logit_2.shape}")
        student = F.log_softmax(logit_1 / self.temperature, axis=1)
        teacher = F.log_softmax(logit_2 / self.temperature, axis=1)
        loss = teacher.exp() * (teacher - student) * self.temperature**2
        if label is None:
            return loss.mean()
        return mean_over(loss, valid_mask(squeeze_label(label), self.ignore_index).unsqueeze(1), self.eps)
