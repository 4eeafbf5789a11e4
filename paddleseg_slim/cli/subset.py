"""Some samples of a dataset: to calibrate with, to refit on, to measure sensitivity by."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np

from paddleseg_slim.errors import UserError

if TYPE_CHECKING:
    from paddleseg_slim.tasks.base import Task


class Subset:
    """Some samples of a dataset.

    Args:
        dataset: any.
        indices: of the samples.
    """

    def __init__(self, dataset: Any, indices: np.ndarray) -> None:
        self.dataset, self.indices = dataset, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[int(self.indices[index])]


def evenly_spread(dataset: Any, count: int | None) -> Subset:
    """``count`` samples of a dataset, evenly spread; all of them without a count."""
    total = len(dataset)
    return Subset(dataset, np.unique(np.linspace(0, total - 1, min(count or total, total)).round().astype(int)))


def calibration_images(task: Task, count: int, which: str, seed: int) -> Subset:
    """Images of the training list as the model meets them in use: with the transforms of the evaluation.

    Args:
        task: gives the datasets.
        count: how many; fewer where the list is shorter.
        which: ``train`` or ``val``.
        seed: of the choice.

    Raises:
        UserError: the list is empty.
    """
    if which == "train":
        dataset = copy.copy(task.train_dataset())
        dataset.transforms = task.val_dataset().transforms
    else:
        dataset = task.val_dataset()
    if len(dataset) == 0:
        raise UserError(f"The {which} list is empty.", "Give images to calibrate with.")
    order = np.random.default_rng(seed).permutation(len(dataset))
    return Subset(dataset, order[:count])
