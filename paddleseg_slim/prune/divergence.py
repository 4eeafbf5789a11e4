"""How far a model's outputs move: a metric without labels, and a finer one than the task's on few images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from scipy.optimize import minimize_scalar

_MOST_POSITIONS = 32
"""Positions looked at along an axis of an output map; neighbours say the same."""


class Counts(Protocol):
    """A metric as counts that add up (`tasks.base.Accumulator`)."""

    counts: np.ndarray
    images: int

    def update(self, outputs: Any, batch: Mapping[str, Any]) -> None:
        """Add a batch."""
        ...

    def result(self) -> Any:
        """Metrics; has ``score``, higher is better, ``primary`` and ``values``."""
        ...


@dataclass(frozen=True)
class _Result:
    score: float
    primary: str
    values: dict[str, float]


class DivergenceCounts:
    """Label-free metric: how far the outputs move, as KL(original || gated) summed over positions.

    ``score`` is 1 minus the mean divergence, so that the loss of a point is the divergence itself. Of a large map a
    regular grid of positions is looked at.
    """

    def __init__(self) -> None:
        self.counts = np.zeros(2)
        self.images = 0

    def update(self, outputs: Any, batch: Mapping[str, Any]) -> None:
        """Add logits ``[N, C, ...]``; ``batch["original"]`` holds those of the untouched model."""
        p, q = _log_softmax(_grid(np.asarray(batch["original"]))), _log_softmax(_grid(np.asarray(outputs)))
        divergence = (np.exp(p) * (p - q)).sum(axis=1)
        self.counts += [float(divergence.sum()), divergence.size]
        self.images += len(divergence)

    def result(self) -> _Result:
        """A result with ``score``, ``primary`` and ``values``."""
        mean = float(self.counts[0] / max(self.counts[1], 1.0))
        return _Result(1.0 - mean, "divergence", {"divergence": mean})


class WithDivergence:
    """A metric and the divergence, counted together.

    Args:
        metric: makes an empty metric.
    """

    def __init__(self, metric: Callable[[], Counts]) -> None:
        self._make, self._metric = metric, metric()
        self._divergence = DivergenceCounts()
        self.images = 0

    @property
    def counts(self) -> np.ndarray:
        """Counts of the metric, then those of the divergence, float64 ``[counts + 2]``."""
        return np.concatenate([self._metric.counts.ravel().astype(np.float64), self._divergence.counts])

    @counts.setter
    def counts(self, counts: np.ndarray) -> None:
        own = self._metric.counts
        self._metric.counts = counts[:-2].reshape(own.shape).astype(own.dtype)
        self._divergence.counts = counts[-2:]

    def update(self, outputs: Any, batch: Mapping[str, Any]) -> None:
        """Add a batch; see `DivergenceCounts.update`."""
        self._metric.update(outputs, batch)
        self._divergence.update(outputs, batch)
        self.images += len(batch["img"])

    def result(self) -> Any:
        """The metric's result."""
        self._metric.images = self.images
        return self._metric.result()

    @property
    def divergence(self) -> float:
        """Mean over the positions."""
        return self._divergence.result().values["divergence"]


def _grid(logits: np.ndarray) -> np.ndarray:
    steps = [max(1, -(-size // _MOST_POSITIONS)) for size in logits.shape[2:]]
    return logits[(slice(None), slice(None), *(slice(step // 2, None, step) for step in steps))]


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def monotone(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Non-decreasing fit by pool-adjacent-violators (Barlow et al., 1972).

    Args:
        values: float ``[N]``, in the order in which they should rise.

    Returns:
        the level of each block, float64, and how many values it holds, int64.
    """
    levels: list[float] = []
    sizes: list[int] = []
    for value in values:
        level, size = float(value), 1
        while levels and levels[-1] > level:
            level = (levels[-1] * sizes[-1] + level * size) / (sizes[-1] + size)
            size += sizes.pop()
            levels.pop()
        levels.append(level)
        sizes.append(size)
    return np.array(levels), np.array(sizes, dtype=np.int64)


def calibrated(divergences: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """Losses of the task's metric told by the divergences: ``top * (1 - exp(-slope * divergence / top))``.

    A divergence ranks the points well on a few images, where a metric such as mIoU is noise; the metric gives the
    scale. A small loss grows as the divergence does, both of second order in what is removed. What the images that were
    chosen add by chance is of first order, so its variance grows as the divergence does, too: points count by its
    inverse.

    Args:
        divergences: float64 ``[points]``, not negative.
        losses: relative losses of the metric at the same points, ``[points]``.

    Returns:
        float64 ``[points]``, not negative, rising with the divergence.
    """
    divergences, losses = np.asarray(divergences, np.float64), np.asarray(losses, np.float64)
    highest = float(losses.max(initial=0.0))
    if highest <= 0 or not divergences.max() > 0:
        return _LEAST_SLOPE * divergences  # nothing was lost: only the order is known
    weights = 1 / np.maximum(divergences, 1e-9 * divergences.max())

    def loss(slope: float, top: float) -> np.ndarray:
        return np.asarray(top * -np.expm1(-slope * divergences / top))

    def fit(top: float) -> tuple[float, float]:
        """Squared error, and the logarithm of the slope, with this highest loss."""
        found = minimize_scalar(
            lambda log_slope: float((weights * np.square(losses - loss(np.exp(log_slope), top))).sum()),
            bounds=(np.log(_LEAST_SLOPE), np.log(1 / _LEAST_SLOPE)),
            method="bounded",
        )
        return float(found.fun), float(found.x)

    tops = highest * np.array(_TOPS)
    errors, slopes = zip(*map(fit, tops))
    best = int(np.argmin(errors))
    return loss(float(np.exp(slopes[best])), float(tops[best]))


_LEAST_SLOPE = 1e-6
"""Loss of a unit of divergence, at least."""

_TOPS = (1.0, 1.1, 1.25, 1.5, 2.0, 3.0)
"""The loss that is not exceeded, in parts of the highest one seen."""
