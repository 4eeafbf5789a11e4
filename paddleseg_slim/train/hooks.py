"""What a compression technique may add to the training loop."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paddleseg_slim.tasks.base import Batch


class Hook:
    """Does nothing; a subclass overrides what it needs. All tensors stay on the device: a hook must not wait for it."""

    def extra_loss(self, model: Any, outputs: Any, batch: Batch) -> Mapping[str, Any]:
        """Scalar tensors by name that are added to the task's loss (distillation, regularisation)."""
        return {}

    def before_step(self, step: int) -> None:
        """Called with the number of the step (from 1) before its forward pass."""

    def after_step(self, step: int) -> None:
        """Called after the optimizer's update of ``step`` (observers, masks)."""

    def on_save(self, folder: Path) -> None:
        """Write further files into a checkpoint that is being written."""

    def on_resume(self, folder: Path) -> None:
        """Read what `on_save` wrote from the checkpoint that the run goes on from."""
