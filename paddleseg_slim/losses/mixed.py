"""Several losses of the same output, weighted."""

from __future__ import annotations

from collections.abc import Sequence

import paddle
from paddle import nn

from paddleseg_slim.errors import UserError
from paddleseg_slim.registry import LOSSES


@LOSSES.register()
class MixedLoss(nn.Layer):
    """The weighted sum of several losses of one output. (PaddleSeg returns the terms; here they are summed.)

    Args:
        losses: the losses.
        coef: a factor for each of them.

    Raises:
        UserError: there are not as many factors as losses.
    """

    def __init__(self, losses: Sequence[nn.Layer], coef: Sequence[float]) -> None:
        super().__init__()
        if len(losses) != len(coef):
            raise UserError(
                f"MixedLoss: {len(losses)} losses, but {len(coef)} values in `coef`.", "Give one factor for each loss."
            )
        self.losses = nn.LayerList(losses)
        self.coef = list(coef)

    def forward(self, logits: paddle.Tensor, labels: paddle.Tensor) -> paddle.Tensor:
        """Compute the sum from what the losses take; a scalar."""
        return sum(coef * loss(logits, labels) for coef, loss in zip(self.coef, self.losses))
