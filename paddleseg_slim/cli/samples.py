"""Predictions of a model, and of the one before it, on a few images of the validation set: pictures for the report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from paddleseg_slim.report.samples import save_sample

if TYPE_CHECKING:
    from paddleseg_slim.tasks.base import Forward, Task

COUNT = 4


def write(folder: Path, task: Task, after: Forward, before: Forward | None = None) -> tuple[str, ...]:
    """Write ``samples/N.npz`` into ``folder``.

    Args:
        folder: of the stage.
        task: gives the images and picks the logits.
        after: the stage's model.
        before: the model that it was made of, if there is one.

    Returns:
        The files, relative to ``folder``; none for a task whose labels are not maps of the image's size.
    """
    data, names = task.val_dataset(), []
    for index in range(min(COUNT, len(data))):
        sample = data[index]
        image, label = np.asarray(sample["img"]), np.asarray(sample["label"])
        if label.shape != image.shape[-2:]:
            return ()
        first = _classes(task, after, image)
        if first.shape != label.shape:
            return ()
        path = folder / "samples" / f"{index}.npz"
        path.parent.mkdir(exist_ok=True)
        base = _classes(task, before, image) if before is not None else None
        save_sample(path, _picture(image), first, base, label)
        names.append(f"samples/{index}.npz")
    return tuple(names)


def _classes(task: Task, forward: Callable[[np.ndarray], object], image: np.ndarray) -> np.ndarray:
    classes: np.ndarray = np.asarray(task.logits(forward(image[None]))).argmax(1)[0].astype(np.uint8)
    return classes


def _picture(image: np.ndarray) -> np.ndarray:
    """``[C, H, W]`` float as uint8 ``[H, W, C]``, stretched to its range."""
    low, high = float(image.min()), float(image.max())
    return ((image - low) / max(high - low, 1e-6) * 255).astype(np.uint8).transpose(1, 2, 0)[..., :3]
