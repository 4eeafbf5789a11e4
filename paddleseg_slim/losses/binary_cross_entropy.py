"""Binary cross-entropy of independent channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Union

import paddle
import paddle.nn.functional as F
from paddle import nn

from paddleseg_slim.errors import UserError
from paddleseg_slim.losses.functional import mean_over
from paddleseg_slim.registry import LOSSES

Weight = Union[Sequence[float], float, str, paddle.Tensor, None]


@LOSSES.register()
class BCELoss(nn.Layer):
    """Sigmoid cross-entropy, averaged over the positions that are not ignored.

    Args:
        weight: factor of every position, broadcast to the logits; ``"dynamic"`` balances positives and negatives anew
            in every batch.
        pos_weight: factor of the positive term; ``"dynamic"`` as above.
        ignore_index: the label value without a loss.
        edge_label: whether the target is the edge label of the batch instead of its label (`combine.py` looks).

    Raises:
        UserError: a weight is a word other than ``dynamic``.
    """

    def __init__(
        self, weight: Weight = None, pos_weight: Weight = None, ignore_index: int = 255, edge_label: bool = False
    ) -> None:
        super().__init__()
        self.weight = self._checked(weight, "weight")
        self.pos_weight = self._checked(pos_weight, "pos_weight")
        self.ignore_index = ignore_index
        self.edge_label = edge_label
        self.eps = 1e-10

    @staticmethod
    def _checked(value: Weight, option: str) -> paddle.Tensor | str | None:
        if isinstance(value, str) and value != "dynamic":
            raise UserError(f"BCELoss: `{option}` is {value!r}.", "Give a number, a list of numbers, or `dynamic`.")
        return value if value is None or isinstance(value, str) else paddle.to_tensor(value, dtype="float32")

    def forward(self, logit: paddle.Tensor, label: paddle.Tensor) -> paddle.Tensor:
        """Compute the loss.

        Args:
            logit: ``[N, C, H, W]``.
            label: ``[N, H, W]`` or ``[N, 1, H, W]``, the class of each pixel (0 or 1 where C is 1), or
                ``[N, C, H, W]``, 0 or 1 for each channel.

        Returns:
            A scalar.
        """
        label = label.unsqueeze(1) if label.ndim < logit.ndim else label
        known = label != self.ignore_index
        target = paddle.where(known, label, paddle.zeros_like(label))
        if target.shape[1] != logit.shape[1]:
            target = F.one_hot(target.squeeze(1).astype("int64"), logit.shape[1]).transpose([0, 3, 1, 2])
        target = target.astype(logit.dtype).detach()
        weight, pos_weight = self.weight, self.pos_weight
        if isinstance(weight, str):
            positive, negative = self._balance(target)
            weight = positive * target + negative * (1 - target)
        if isinstance(pos_weight, str):
            pos_weight = self._balance(target)[0]
        loss = F.binary_cross_entropy_with_logits(logit, target, weight, reduction="none", pos_weight=pos_weight)
        return mean_over(loss, known.astype(logit.dtype).detach(), self.eps)

    @staticmethod
    def _balance(target: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        """Return the factors of positives and negatives: twice the share of the other kind.

        As in PaddleSeg, ignored positions count as class 0.
        """
        share = target.mean()
        return 2 * (1 - share), 2 * share
