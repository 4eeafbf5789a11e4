"""Self-distillation: a compressed model learns from the model that it was, the default of every retraining."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import paddle

from paddleseg_slim.distill.losses import KDLoss
from paddleseg_slim.graph import GraphLayer
from paddleseg_slim.tasks.base import Batch
from paddleseg_slim.train.hooks import Hook


class SelfDistillation(Hook):
    """Divergence of the compressed model's logits from those of the model before (Hinton et al., 2015).

    Args:
        teacher: the model before.
        logits: picks the logits ``[N, C, ...]`` from the outputs of either.
        weight: of the loss.
        temperature: of both softmaxes; the loss is scaled by its square.
    """

    def __init__(
        self, teacher: GraphLayer, logits: Callable[[Any], Any], weight: float = 1.0, temperature: float = 1.0
    ) -> None:
        self.teacher, self.logits, self.weight, self.divergence = teacher, logits, weight, KDLoss(temperature)
        teacher.eval()

    def extra_loss(self, model: Any, outputs: Any, batch: Batch) -> Mapping[str, Any]:
        """The loss, averaged over positions."""
        with paddle.no_grad():
            target = self.logits(self.teacher(batch["img"]))
        return {"distill_loss": self.weight * self.divergence(self.logits(outputs), target)}
