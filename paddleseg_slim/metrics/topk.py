"""Classification metrics: Top-1 and Top-5 accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from paddleseg_slim.errors import UserError
from paddleseg_slim.tasks.base import Accumulator, Metrics


def rank_of_label(logits: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Return how many classes score above the true one.

    Of classes with equal scores the one with the smaller number is first.

    Args:
        logits: ``[N, C]``.
        label: integers ``[N]``.

    Returns:
        Integers ``[N]``; 0 where the prediction is right.
    """
    own = logits[np.arange(len(label)), label][:, None]
    earlier = np.arange(logits.shape[1]) < label[:, None]
    return ((logits > own) | ((logits == own) & earlier)).sum(axis=1)


class ClassificationAccumulator(Accumulator):
    """Top-1 and Top-5 accuracy, and the Top-1 accuracy of each class.

    Args:
        num_classes: number of classes C.
        class_names: their names; their numbers when None.

    Attributes:
        counts: int64 ``[C, 3]``: for each true class the images, those right at first, those right among the first
            five.
        images: images seen.
    """

    def __init__(self, num_classes: int, class_names: Sequence[str] | None = None) -> None:
        self.num_classes = num_classes
        self.class_names = list(class_names) if class_names is not None else [str(i) for i in range(num_classes)]
        if len(self.class_names) != num_classes:
            raise ValueError(f"{len(self.class_names)} class names for {num_classes} classes")
        self.counts = np.zeros((num_classes, 3), np.int64)
        self.images = 0

    def update(self, outputs: Any, batch: Mapping[str, Any]) -> None:
        """Add one batch: logits ``[N, C]`` (or a list of them, the first counts) and ``batch["label"]`` ``[N]``.

        Raises:
            UserError: a label is not a class.
        """
        first = outputs[0] if isinstance(outputs, (list, tuple)) else outputs
        logits, label = np.asarray(first), np.asarray(batch["label"]).reshape(-1).astype(np.int64)
        if len(label) and not (label.min() >= 0 and label.max() < self.num_classes):
            raise UserError(
                f"Labels go from {label.min()} to {label.max()}; known are the classes 0 to {self.num_classes - 1}.",
                "Correct the labels or `num_classes` of the dataset.",
            )
        rank = rank_of_label(logits, label)
        columns = np.stack([np.ones_like(rank), rank < 1, rank < 5], axis=1).astype(np.int64)
        np.add.at(self.counts, label, columns)
        self.images += len(label)

    def result(self) -> Metrics:
        """Compute the metrics from the counts; a class without images has None.

        Raises:
            UserError: no image was evaluated.
        """
        seen, first, five = self.counts.sum(axis=0)
        if not seen:
            raise UserError("There is nothing to measure: no image was evaluated.", "Check the validation dataset.")
        return Metrics(
            primary="Top-1",
            values={"Top-1": float(first / seen), "Top-5": float(five / seen)},
            per_class={
                name: float(row[1] / row[0]) if row[0] else None for name, row in zip(self.class_names, self.counts)
            },
            images=self.images,
        )
