"""Area under the ROC curve over all pixels, in constant memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import logsumexp

from paddleseg_slim.errors import UserError
from paddleseg_slim.tasks.base import Accumulator, Metrics

BINS = 1 << 16


def score_bins(scores: np.ndarray) -> np.ndarray:
    """Return the bin of each score: its first 16 bits as a float32, arranged so that bins are in the scores' order.

    A bin is at most 1/128 of its score wide, so that scores of any size are told apart.
    """
    bits = scores.astype(np.float32).view(np.uint32)
    ordered = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))
    return (ordered >> 16).astype(np.int64)


def log_odds(logits: np.ndarray) -> np.ndarray:
    """Log-odds of each class against all others: its logit less the logsumexp of the rest, float64 ``[P, C]``.

    In the order of the softmax probabilities of a class, but never rounded to 1 as those are.

    Args:
        logits: ``[P, C]``, C at least 2.
    """
    logits = logits.astype(np.float64)
    top = logits.argmax(axis=1)[:, None]
    without_top = logits.copy()
    np.put_along_axis(without_top, top, -np.inf, axis=1)
    largest = np.take_along_axis(logits, top, axis=1)
    shares = np.exp(logits - largest)
    others = shares.sum(axis=1, keepdims=True) - shares
    np.put_along_axis(others, top, 1.0, axis=1)  # a difference that cancels: replaced below
    rest = largest + np.log(others)
    np.put_along_axis(rest, top, logsumexp(without_top, axis=1)[:, None], axis=1)
    return logits - rest


def area_under_curve(negatives: np.ndarray, positives: np.ndarray) -> float:
    """Probability that a positive scores higher than a negative; equal bins count a half (Mann-Whitney U).

    Args:
        negatives: count of negatives in each bin, in the order of the scores.
        positives: the same of positives.

    Returns:
        In [0, 1]; NaN without positives or without negatives.
    """
    negatives, positives = negatives.astype(np.float64), positives.astype(np.float64)
    pairs = negatives.sum() * positives.sum()
    below = np.cumsum(negatives) - negatives / 2
    return float(positives @ below / pairs) if pairs else float("nan")


class AucAccumulator(Accumulator):
    """AUC-ROC: of class 1 for two classes, else the mean over one-against-the-rest of each class (PaddleSeg's).

    PaddleSeg keeps every probability in memory; here scores are counted in 65536 bins, which changes the value by less
    than 0.001. Classes that no pixel, or every pixel, has are left out.

    Args:
        num_classes: number of classes C, 2 or more.
        class_names: their names; their numbers when None.
        ignore_index: the label value that does not count.

    Attributes:
        counts: int64 ``[R, 2, 65536]``, R = 1 for two classes, else C: pixels of other classes and of this one, by bin.
        images: images seen.
    """

    def __init__(self, num_classes: int, class_names: Sequence[str] | None = None, ignore_index: int = 255) -> None:
        names = list(class_names) if class_names is not None else [str(i) for i in range(num_classes)]
        if len(names) != num_classes or num_classes < 2:
            raise ValueError(f"{len(names)} class names for {num_classes} classes, 2 or more wanted")
        self.classes = [1] if num_classes == 2 else list(range(num_classes))
        self.class_names = [names[index] for index in self.classes]
        self.ignore_index = ignore_index
        self.counts = np.zeros((len(self.classes), 2, BINS), np.int64)
        self.images = 0

    def update(self, outputs: Any, batch: Mapping[str, Any]) -> None:
        """Add one batch: logits ``[N, C, H, W]`` (or a list of them, the first counts) and ``batch["label"]``.

        Raises:
            UserError: the model gives classes, not scores.
        """
        first = outputs[0] if isinstance(outputs, (list, tuple)) else outputs
        if "int" in str(first.dtype):
            raise UserError("This model gives classes without scores.", "Export it with `--output_op none` for AUC.")
        logits, label = np.asarray(first), np.asarray(batch["label"]).astype(np.int64)
        self.images += len(label)
        logits = np.moveaxis(logits, 1, -1).reshape(-1, logits.shape[1])
        known = label.reshape(-1) != self.ignore_index
        label, odds = label.reshape(-1)[known], log_odds(logits[known])
        for row, index in enumerate(self.classes):
            position = (label == index) * BINS + score_bins(odds[:, index])
            self.counts[row] += np.bincount(position, minlength=2 * BINS).reshape(2, BINS)

    def result(self) -> Metrics:
        """Compute the metric from the counts.

        Raises:
            UserError: no class has both pixels of its own and pixels of others.
        """
        areas = [area_under_curve(*row) for row in self.counts]
        if np.isnan(areas).all():
            raise UserError(
                f"There is no ROC curve: the labels of {self.images} images have one class only.",
                "Evaluate on images with two classes or more.",
            )
        return Metrics(
            primary="Auc_roc",
            values={"Auc_roc": float(np.nanmean(areas))},
            per_class={name: None if np.isnan(area) else area for name, area in zip(self.class_names, areas)},
            images=self.images,
        )
