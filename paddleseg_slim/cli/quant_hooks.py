"""What quantization-aware training adds to the training loop."""

from __future__ import annotations

from paddleseg_slim.quant.qat import FREEZE_AT, Training
from paddleseg_slim.train.hooks import Hook


class Ranges(Hook):
    """Freeze the ranges near the end, and keep learned scales above zero.

    Args:
        training: the train form of the model.
        iters: length of the training.
    """

    def __init__(self, training: Training, iters: int) -> None:
        self.training = training
        self.freeze_at = max(1, round(FREEZE_AT * iters))
        self._frozen = False

    def before_step(self, step: int) -> None:
        """Freeze when it is time (also in a run that goes on behind it)."""
        if step > self.freeze_at and not self._frozen:
            self.training.freeze()
            self._frozen = True

    def after_step(self, step: int) -> None:
        """Keep scales positive."""
        self.training.keep_positive()
