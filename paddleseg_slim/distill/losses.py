"""Losses between a student and a teacher, by name.

All are called as ``loss(student, teacher)`` with float tensors of one shape and return a scalar; gradients reach the
student alone, because the teacher's tensors carry none. Feature losses take ``[N, C, H, W]`` and logits losses
``[N, C, ...]`` with the classes on axis 1; `DKDLoss` reads the labels, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import nn

from paddleseg_slim.losses.kl import KLLoss
from paddleseg_slim.registry import LOSSES

__all__ = ["KLLoss"]


def _rows(logits: Any) -> Any:
    """``[N, C, ...]`` as ``[positions, C]``."""
    count = logits.shape[1]
    return paddle.moveaxis(logits, 1, -1).reshape([-1, count])


def _divergence(student: Any, teacher: Any, axis: int) -> Any:
    """KL(teacher || student) of log-probabilities, summed over ``axis``."""
    return (teacher.exp() * (teacher - student)).sum(axis=axis)


@LOSSES.register("KDLoss", "KnowledgeDistillationLoss")
class KDLoss(nn.Layer):
    """Divergence of the softened class probabilities (Hinton et al. 2015, eq. 2-4), mean over positions, times T^2.

    `KLLoss`, PaddleSeg's, is the same divided by the number of classes.

    Args:
        temperature: T, divides both logits.
    """

    def __init__(self, temperature: float = 4.0) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, student: Any, teacher: Any) -> Any:
        """Compute the loss of logits ``[N, C, ...]``."""
        ours = F.log_softmax(student / self.temperature, axis=1)
        theirs = F.log_softmax(teacher / self.temperature, axis=1)
        return _divergence(ours, theirs, axis=1).mean() * self.temperature**2


@LOSSES.register("DKDLoss")
class DKDLoss(nn.Layer):
    """Decoupled distillation: target class and the others apart (Zhao et al. 2022, eq. 7), times T^2.

    Args:
        alpha: weight of the divergence of (target, not target).
        beta: weight of the divergence among the other classes.
        temperature: T.
        ignore_index: label of positions that do not count.
    """

    needs_label = True

    def __init__(
        self, alpha: float = 1.0, beta: float = 8.0, temperature: float = 4.0, ignore_index: int = 255
    ) -> None:
        super().__init__()
        self.alpha, self.beta, self.temperature, self.ignore_index = alpha, beta, temperature, ignore_index

    def forward(self, student: Any, teacher: Any, label: Any) -> Any:
        """Compute the loss of logits ``[N, C, ...]`` with labels ``[N, ...]`` (int)."""
        flat = label.reshape([-1]).astype("int64")
        valid = (flat != self.ignore_index).astype(student.dtype)
        chosen = paddle.where(flat == self.ignore_index, paddle.zeros_like(flat), flat)
        target = F.one_hot(chosen, student.shape[1]).astype(student.dtype)
        ours, theirs = _rows(student) / self.temperature, _rows(teacher) / self.temperature
        pair = _divergence(self._target_pair(ours, target), self._target_pair(theirs, target), axis=1)
        hidden = target * 1e4  # takes the target out of the softmax
        rest_ours, rest_theirs = F.log_softmax(ours - hidden, axis=1), F.log_softmax(theirs - hidden, axis=1)
        rest = ((1 - target) * rest_theirs.exp() * (rest_theirs - rest_ours)).sum(axis=1)
        loss = (self.alpha * pair + self.beta * rest) * self.temperature**2
        return (loss * valid).sum() / valid.sum().clip(min=1.0)

    @staticmethod
    def _target_pair(logits: Any, target: Any) -> Any:
        """Log-probabilities of (target, not target), ``[positions, 2]``."""
        log = F.log_softmax(logits, axis=1)
        own = (log * target).sum(axis=1)
        others = paddle.logsumexp(log - target * 1e4, axis=1)
        return paddle.stack([own, others], axis=1)


@LOSSES.register("DMLLoss")
class DMLLoss(nn.Layer):
    """Divergence from a peer that learns at the same time (Zhang et al. 2018, eq. 5), mean over positions.

    Both directions together are the mutual learning of two students; see `distiller.Mutual`.
    """

    def forward(self, student: Any, teacher: Any) -> Any:
        """Compute the loss of logits ``[N, C, ...]``."""
        ours, theirs = F.log_softmax(student, axis=1), F.log_softmax(teacher, axis=1)
        return _divergence(ours, theirs, axis=1).mean()


@LOSSES.register("L2FeatureLoss", "MSEFeatureLoss")
class L2FeatureLoss(nn.Layer):
    """Mean square of the difference (the hints of FitNets, Romero et al. 2015)."""

    def forward(self, student: Any, teacher: Any) -> Any:
        """Compute the loss of features of any shape."""
        return F.mse_loss(student, teacher)


@LOSSES.register("SmoothL1FeatureLoss")
class SmoothL1FeatureLoss(nn.Layer):
    """Huber loss of the difference, mean: 0.5 d^2 / delta below ``delta``, |d| - delta / 2 above.

    Args:
        delta: where the square turns into a line.
    """

    def __init__(self, delta: float = 1.0) -> None:
        super().__init__()
        self.delta = delta

    def forward(self, student: Any, teacher: Any) -> Any:
        """Compute the loss of features of any shape."""
        size = (student - teacher).abs()
        square = 0.5 * size**2 / self.delta
        return paddle.where(size < self.delta, square, size - 0.5 * self.delta).mean()


@LOSSES.register("CWDLoss", "SegChannelwiseLoss")
class CWDLoss(nn.Layer):
    """Every channel softened into a distribution over positions (Shu et al. 2021, eq. 3-4).

    ``T^2 / C`` times the sum of the channels' divergences, mean over images.

    Args:
        temperature: T, divides both features.
    """

    def __init__(self, temperature: float = 4.0) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, student: Any, teacher: Any) -> Any:
        """Compute the loss of features or logits ``[N, C, H, W]``."""
        flat = [x.flatten(2) / self.temperature for x in (student, teacher)]
        # log_softmax over 128 x 128 positions took Paddle 3 seven seconds on a CPU, this a tenth of one
        ours, theirs = (x - paddle.logsumexp(x, axis=2, keepdim=True) for x in flat)
        return _divergence(ours, theirs, axis=2).mean() * self.temperature**2


@LOSSES.register("PairwiseLoss", "SegPairWiseLoss")
class PairwiseLoss(nn.Layer):
    """Cosine similarities of all pairs of positions, mean square of their differences (Liu et al. 2019, eq. 2).

    Args:
        pool: the features are max-pooled to at most this height and width first, as in the paper's code.
    """

    any_channels = True

    def __init__(self, pool: int = 16) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, student: Any, teacher: Any) -> Any:
        """Compute the loss of features ``[N, C, H, W]``; the numbers of channels may differ."""
        return F.mse_loss(self._similarity(student), self._similarity(teacher))

    def _similarity(self, features: Any) -> Any:
        height, width = (min(side, self.pool) for side in features.shape[2:])
        flat = F.adaptive_max_pool2d(features, (height, width)).flatten(2)
        unit = F.normalize(flat, axis=1, epsilon=1e-8)
        return paddle.matmul(unit, unit, transpose_x=True)


@LOSSES.register("AttentionTransferLoss", "ATLoss")
class AttentionTransferLoss(nn.Layer):
    """Maps of sum |x|^p over channels, each of unit length, mean square of their difference
    (Zagoruyko and Komodakis 2017, eq. 2, as in the authors' code).

    Args:
        power: p.
    """

    any_channels = True

    def __init__(self, power: float = 2.0) -> None:
        super().__init__()
        self.power = power

    def forward(self, student: Any, teacher: Any) -> Any:
        """Compute the loss of features ``[N, C, H, W]``; the numbers of channels may differ."""
        return F.mse_loss(self._map(student), self._map(teacher))

    def _map(self, features: Any) -> Any:
        return F.normalize(features.abs().pow(self.power).mean(axis=1).flatten(1), axis=1)


@LOSSES.register("FSPLoss")
class FSPLoss(nn.Layer):
    """Flow of solution procedure: Gram matrices between two places of a network (Yim et al. 2017, eq. 1-2).

    ``taps`` are in pairs: (first, last) of the student against (first, last) of the teacher.
    """

    pairs = True

    def forward(self, student: Sequence[Any], teacher: Sequence[Any]) -> Any:
        """Compute the loss of two pairs of features ``[N, C1, H, W]`` and ``[N, C2, H', W']``; ``C`` must agree."""
        return F.mse_loss(self._matrix(*student), self._matrix(*teacher))

    @staticmethod
    def _matrix(first: Any, last: Any) -> Any:
        """``[N, C1, C2]``, mean over positions; the larger map is pooled to the smaller."""
        size = [min(pair) for pair in zip(first.shape[2:], last.shape[2:])]
        a, b = (x if list(x.shape[2:]) == size else F.adaptive_max_pool2d(x, size) for x in (first, last))
        return paddle.matmul(a.flatten(2), b.flatten(2), transpose_y=True) / float(size[0] * size[1])
