"""Losses by PaddleSeg's names, and the weighted sum of them that a config asks for."""

from paddleseg_slim.losses.combine import CombinedLoss, build_loss
from paddleseg_slim.losses.cross_entropy import BootstrappedCrossEntropyLoss, CrossEntropyLoss, OhemCrossEntropyLoss
from paddleseg_slim.losses.mixed import MixedLoss

__all__ = [
    "BootstrappedCrossEntropyLoss",
    "CombinedLoss",
    "CrossEntropyLoss",
    "MixedLoss",
    "OhemCrossEntropyLoss",
    "build_loss",
]
