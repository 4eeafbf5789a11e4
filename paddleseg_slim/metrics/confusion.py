"""Segmentation metrics, all from one confusion matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from paddleseg_slim.errors import UserError
from paddleseg_slim.tasks.base import Accumulator, Metrics


def confusion_matrix(
    prediction: np.ndarray, label: np.ndarray, num_classes: int, ignore_index: int = 255
) -> np.ndarray:
    """Count the pixels of each (label, prediction) pair.

    Args:
        prediction: integers in ``[0, num_classes)``, any shape.
        label: integers of the same shape; pixels of value ``ignore_index`` are left out.
        num_classes: number of classes C.
        ignore_index: the label value that does not count.

    Returns:
        int64 ``[C, C]``; row: label, column: prediction.

    Raises:
        UserError: a label is neither a class nor ``ignore_index``.
        ValueError: the shapes differ, or a prediction is not a class.
    """
    if prediction.shape != label.shape:
        raise ValueError(f"predictions of shape {prediction.shape}, labels of shape {label.shape}")
    if not 0 <= ignore_index <= _MOST_LABELS:
        counted = label != ignore_index
        prediction, label = prediction[counted], label[counted]
    if not label.size:
        return np.zeros((num_classes, num_classes), np.int64)
    lowest, highest = int(label.min()), int(label.max())
    if lowest < 0 or highest > _MOST_LABELS:
        raise _no_class(lowest if lowest < 0 else highest, num_classes, ignore_index)
    if prediction.min() < 0 or prediction.max() >= num_classes:
        raise ValueError(f"predictions from {prediction.min()} to {prediction.max()} for {num_classes} classes")
    rows = max(highest + 1, num_classes)
    pairs = label.astype(np.int64) * num_classes + prediction
    counts = np.bincount(pairs.ravel(), minlength=rows * num_classes).reshape(rows, num_classes)
    wrong = [row for row in np.flatnonzero(counts[num_classes:].any(axis=1)) + num_classes if row != ignore_index]
    if wrong:
        raise _no_class(int(wrong[-1]), num_classes, ignore_index)
    matrix = counts[:num_classes].astype(np.int64)
    if 0 <= ignore_index < num_classes:
        matrix[ignore_index] = 0
    return matrix


_MOST_LABELS = 1 << 16
"""A label above is none, and no place to count in."""


def _no_class(label: int, num_classes: int, ignore_index: int) -> UserError:
    return UserError(
        f"A label is {label}: not a class (0 to {num_classes - 1}), nor {ignore_index} (ignored).",
        "Correct the label files or `num_classes` of the dataset.",
    )


def class_iou(matrix: np.ndarray) -> np.ndarray:
    """Intersection over union of each class, float64 ``[C]``; NaN for a class in neither labels nor predictions."""
    hits, predicted, labelled = _areas(matrix)
    return _ratio(hits, predicted + labelled - hits)


def class_dice(matrix: np.ndarray) -> np.ndarray:
    """Dice coefficient of each class, float64 ``[C]``; NaN for a class in neither labels nor predictions."""
    hits, predicted, labelled = _areas(matrix)
    return _ratio(2 * hits, predicted + labelled)


def accuracy(matrix: np.ndarray) -> float:
    """Share of the pixels whose class is right; NaN for an empty matrix."""
    return float(_ratio(np.trace(matrix), matrix.sum()))


def kappa(matrix: np.ndarray) -> float:
    """Cohen's kappa (1960): the agreement beyond chance.

    0 where chance alone explains all of it (labels and predictions of one single class: 0 / 0).
    """
    _, predicted, labelled = _areas(matrix.astype(np.float64))
    by_chance = float(predicted @ labelled) / float(matrix.sum()) ** 2
    return (accuracy(matrix) - by_chance) / (1 - by_chance) if by_chance < 1 else 0.0


def _areas(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.diag(matrix), matrix.sum(axis=0), matrix.sum(axis=1)


def _ratio(part: Any, whole: Any) -> np.ndarray:
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole != 0)


def predicted_classes(outputs: Any) -> np.ndarray:
    """Return the class of each pixel from a model's outputs.

    Args:
        outputs: a list whose first element counts, or that element: logits ``[N, C, H, W]`` or ``[N, C]``, or integers
            ``[N, H, W]`` / ``[N, 1, H, W]`` from a model that ends in an argmax. Paddle tensors or arrays; the argmax
            of a tensor is taken on its device, so that only the classes are copied.

    Returns:
        Integers ``[N, H, W]`` or ``[N]``.
    """
    first = outputs[0] if isinstance(outputs, (list, tuple)) else outputs
    if isinstance(first, np.ndarray) and first.dtype.kind == "f" and first.ndim == 4 and first.shape[1] <= _FEW_CLASSES:
        return _first_largest(first)
    if "int" not in str(first.dtype):
        return _array(first.argmax(1))
    classes = _array(first)
    return classes[:, 0] if classes.ndim == 4 else classes


_FEW_CLASSES = 64


def _first_largest(logits: np.ndarray) -> np.ndarray:
    """``logits.argmax(1)`` of ``[N, C, H, W]`` as uint8, class by class over whole maps: many times as fast."""
    classes = np.zeros((logits.shape[0], *logits.shape[2:]), np.uint8)
    for image, found in zip(logits, classes):
        largest = image[0].copy()
        for number in range(1, len(image)):
            larger = (image[number] > largest).view(np.uint8)
            np.maximum(found, larger * np.uint8(number), out=found)  # numbers rise: the latest is the largest
            np.maximum(largest, image[number], out=largest)
    return classes


def _array(values: Any) -> np.ndarray:
    return values if isinstance(values, np.ndarray) else values.numpy()


class SegmentationAccumulator(Accumulator):
    """mIoU, Acc, Kappa and Dice over all pixels seen.

    A class in neither labels nor predictions is absent: its IoU is None and it does not enter the means. (PaddleSeg
    counts it as 0; where every class occurs the numbers are PaddleSeg's.)

    Args:
        num_classes: number of classes C.
        class_names: their names; their numbers when None.
        ignore_index: the label value that does not count.

    Attributes:
        counts: int64 ``[C, C]``, the confusion matrix; row: label, column: prediction.
        images: images seen.
    """

    def __init__(self, num_classes: int, class_names: Sequence[str] | None = None, ignore_index: int = 255) -> None:
        self.num_classes = num_classes
        self.class_names = list(class_names) if class_names is not None else [str(i) for i in range(num_classes)]
        if len(self.class_names) != num_classes:
            raise ValueError(f"{len(self.class_names)} class names for {num_classes} classes")
        self.ignore_index = ignore_index
        self.counts = np.zeros((num_classes, num_classes), np.int64)
        self.images = 0

    def update(self, outputs: Any, batch: Mapping[str, Any]) -> None:
        """Add one batch; ``batch["label"]`` is ``[N, H, W]`` or ``[N, 1, H, W]``, of the outputs' height and width."""
        label = _array(batch["label"])
        label = label[:, 0] if label.ndim == 4 else label
        self.counts += confusion_matrix(predicted_classes(outputs), label, self.num_classes, self.ignore_index)
        self.images += len(label)

    def result(self) -> Metrics:
        """Compute the metrics from the counts.

        Raises:
            UserError: no pixel counts: nothing was evaluated, or every label is ``ignore_index``.
        """
        if not self.counts.sum():
            raise UserError(
                f"There is nothing to measure: none of {self.images} images has a pixel of a class "
                f"(all are {self.ignore_index}, ignored).",
                "Check the label files and `ignore_index` of the dataset.",
            )
        iou = class_iou(self.counts)
        return Metrics(
            primary="mIoU",
            values={
                "mIoU": float(np.nanmean(iou)),
                "Acc": accuracy(self.counts),
                "Kappa": kappa(self.counts),
                "Dice": float(np.nanmean(class_dice(self.counts))),
            },
            per_class={name: None if np.isnan(value) else float(value) for name, value in zip(self.class_names, iou)},
            images=self.images,
        )
