"""Losses by PaddleSeg's names, and the weighted sum of them that a config asks for."""

from paddleseg_slim.losses.binary_cross_entropy import BCELoss
from paddleseg_slim.losses.combine import CombinedLoss, build_loss
from paddleseg_slim.losses.cross_entropy import BootstrappedCrossEntropyLoss, CrossEntropyLoss, OhemCrossEntropyLoss
from paddleseg_slim.losses.dice import DiceLoss
from paddleseg_slim.losses.edge import DetailAggregateLoss, EdgeAttentionLoss
from paddleseg_slim.losses.focal import FocalLoss, MultiClassFocalLoss
from paddleseg_slim.losses.kl import KLLoss
from paddleseg_slim.losses.lovasz import LovaszHingeLoss, LovaszSoftmaxLoss
from paddleseg_slim.losses.mixed import MixedLoss

__all__ = [
    "BCELoss",
    "BootstrappedCrossEntropyLoss",
    "CombinedLoss",
    "CrossEntropyLoss",
    "DetailAggregateLoss",
    "DiceLoss",
    "EdgeAttentionLoss",
    "FocalLoss",
    "KLLoss",
    "LovaszHingeLoss",
    "LovaszSoftmaxLoss",
    "MixedLoss",
    "MultiClassFocalLoss",
    "OhemCrossEntropyLoss",
    "build_loss",
]
