"""Least squares from sums over samples, so that no sample is kept."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_RIDGES = (1e-6, 1e-3, 1e-2, 1e-1, 1.0)
"""Pull towards the weights as they are, relative to the mean square of the inputs; the images left out choose."""


@dataclass
class Moments:
    """Sums over samples: of inputs ``[G, D]``, outputs ``[G, O]``, their products, and how many."""

    x: np.ndarray
    y: np.ndarray
    xx: np.ndarray
    xy: np.ndarray
    yy: np.ndarray
    count: int

    @classmethod
    def none(cls, shape: tuple[int, ...]) -> Moments:
        """No samples yet, for weights of ``shape``: groups, fan in, outputs of a group."""
        groups, inputs, outputs = shape
        sizes = (inputs,), (outputs,), (inputs, inputs), (inputs, outputs), (outputs,)
        x, y, xx, xy, yy = (np.zeros((groups, *size)) for size in sizes)
        return cls(x, y, xx, xy, yy, 0)

    def add(self, x: np.ndarray, y: np.ndarray) -> None:
        """Add samples ``[G, P, D]`` and ``[G, P, O]``."""
        self.x += x.sum(axis=1, dtype=np.float64)
        self.y += y.sum(axis=1, dtype=np.float64)
        self.xx += x.transpose(0, 2, 1) @ x
        self.xy += x.transpose(0, 2, 1) @ y
        self.yy += np.square(y, dtype=np.float64).sum(axis=1)
        self.count += x.shape[1]

    def __add__(self, other: Moments) -> Moments:
        a, b = self, other
        return Moments(a.x + b.x, a.y + b.y, a.xx + b.xx, a.xy + b.xy, a.yy + b.yy, a.count + b.count)

    def means(self) -> tuple[np.ndarray, np.ndarray]:
        """Of inputs and outputs."""
        return self.x / self.count, self.y / self.count

    def products(self, constants: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean ``x x``, ``x y`` and ``y y`` about the means, and ``constants`` times the products of the means.

        0 is about the means, 1 about zero.
        """
        x, y = self.means()
        xx, xy, yy = self.xx / self.count, self.xy / self.count, self.yy / self.count
        out = 1.0 - constants
        return xx - out * x[:, :, None] * x[:, None, :], xy - out * x[:, :, None] * y[:, None, :], yy - out * y**2


_Products = tuple[np.ndarray, np.ndarray, np.ndarray]


def _solve(products: _Products, old: np.ndarray, ridge: float) -> np.ndarray:
    xx, xy, _ = products
    pull = ridge * np.trace(xx, axis1=1, axis2=2) / xx.shape[1] + 1e-12
    regular = xx + pull[:, None, None] * np.eye(xx.shape[1])
    return np.asarray(old + np.linalg.solve(regular, xy - xx @ old))


def _error(products: _Products, weights: np.ndarray, variance: float) -> float:
    """Mean square error as a part of the variance of the output."""
    xx, xy, yy = products
    error = yy.sum() - 2 * (weights * xy).sum() + (weights * (xx @ weights)).sum()
    return float(error / max(variance, 1e-30))


def fit(old: np.ndarray, halves: list[Moments], constants: float) -> tuple[np.ndarray, float, float, float]:
    """Weights nearest to the outputs, pulled towards the old ones as far as serves samples left out.

    Args:
        old: weights ``[G, D, O]``.
        halves: moments of the samples in two halves; the second one chooses the pull, then both are fitted.
        constants: what the means count beside the variance: 0 where a constant may be added to every output, which
            takes them out, 1 where none may.

    Returns:
        float64 weights ``[G, D, O]``; the error on the second half before and after; the pull, infinity when the old
        weights stay.
    """
    old = old.astype(np.float64)
    own, test = (half.products(constants) for half in halves)
    variance = float(halves[1].products(0.0)[2].sum())
    before = _error(test, old, variance)
    if not np.isfinite(before):
        return old, before, before, float("inf")
    errors = {ridge: _error(test, _solve(own, old, ridge), variance) for ridge in _RIDGES}
    best = min(errors, key=lambda ridge: errors[ridge])
    if not errors[best] < before:  # NaN too
        return old, before, before, float("inf")
    return _solve((halves[0] + halves[1]).products(constants), old, best), before, errors[best], best
