"""Metrics: counts that add up over batches, and the numbers computed from them."""

from paddleseg_slim.metrics.auc import AucAccumulator
from paddleseg_slim.metrics.confusion import SegmentationAccumulator, confusion_matrix
from paddleseg_slim.metrics.topk import ClassificationAccumulator

__all__ = ["AucAccumulator", "ClassificationAccumulator", "SegmentationAccumulator", "confusion_matrix"]
