"""What the prune command adds to the training loop: sparse scales, kept zeros."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from paddleseg_slim.errors import UserError
from paddleseg_slim.graph import GraphLayer
from paddleseg_slim.prune.sparsity import GradualSchedule, magnitude_masks
from paddleseg_slim.tasks.base import Batch
from paddleseg_slim.train.hooks import Hook


class SparseScales(Hook):
    """L1 on the scales of BatchNorm, which makes whole channels small (Liu et al., 2017, Network Slimming).

    Args:
        model: being trained.
        names: of the scales.
        factor: of the loss.
    """

    def __init__(self, model: GraphLayer, names: Sequence[str], factor: float) -> None:
        self.scales = [model.tensor(name) for name in names]
        self.factor = factor

    def extra_loss(self, model: Any, outputs: Any, batch: Batch) -> Mapping[str, Any]:
        """The sum of their magnitudes."""
        return {"scale_loss": self.factor * sum(scale.abs().sum() for scale in self.scales)}


class KeepZeros(Hook):
    """Keep weights at zero while the others train, and with a schedule make more of them zero.

    Args:
        model: being trained.
        masks: name -> which weights stay (bool); with a schedule, whose weights are pruned.
        schedule: None: the masks stay as they are.
    """

    FILE = "masks.npz"

    def __init__(
        self, model: GraphLayer, masks: Mapping[str, np.ndarray], schedule: GradualSchedule | None = None
    ) -> None:
        self.model, self.schedule = model, schedule
        self.masks = {name: paddle.to_tensor(mask.astype("float32")) for name, mask in masks.items()}
        self._apply()

    def _apply(self) -> None:
        with paddle.no_grad():
            for name, mask in self.masks.items():
                tensor = self.model.tensor(name)
                tensor.set_value(tensor * mask)

    def after_step(self, step: int) -> None:
        """Choose the masks anew when it is time, then zero what the update filled."""
        if self.schedule is not None and self.schedule.due(step):
            weights = {name: self.model.tensor(name).numpy() for name in self.masks}
            chosen = magnitude_masks(weights, self.schedule.at(step))
            self.masks = {name: paddle.to_tensor(mask.astype("float32")) for name, mask in chosen.items()}
        self._apply()

    def on_save(self, folder: Path) -> None:
        """Write the masks."""
        arrays: dict[str, Any] = {name: mask.numpy().astype(bool) for name, mask in self.masks.items()}
        np.savez_compressed(folder / self.FILE, **arrays)

    def on_resume(self, folder: Path) -> None:
        """Read the masks."""
        try:
            with np.load(folder / self.FILE, allow_pickle=False) as data:
                self.masks = {name: paddle.to_tensor(data[name].astype("float32")) for name in data.files}
        except (OSError, ValueError) as error:
            raise UserError(
                f"{folder / self.FILE} cannot be read: {error}", "Resume from another checkpoint."
            ) from error
