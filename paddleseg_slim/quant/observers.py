"""Observers: one pass over the calibration images collects a histogram a tensor; every range comes from it offline.

A rule maps the statistics of a tensor to the range ``(low, high)`` that its integers shall cover:

- ``abs_max``: the largest magnitude on both sides; ``min_max``: the extremes; ``avg``: the mean over images of each
  image's extremes.
- ``hist``: the range that holds a share of the values (0.99999 by default) (PaddleSlim's ``hist``).
- ``kl``: least Kullback-Leibler divergence of the quantized histogram (Migacz 2017, TensorRT's calibration).
- ``mse``: least mean squared error of the rounded values; ``emd``: least difference of the mean magnitude, the earth
  mover's distance of PaddleSlim.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from paddleseg_slim.errors import UserError
from paddleseg_slim.quant.node import TINY_SCALE, Grid
from paddleseg_slim.registry import Registry

BINS = 1024
SAMPLES = 1 << 16
"""Elements of one image's tensor that go into its histogram, evenly spaced; extremes are exact."""

MOST_IN_A_ROW = 1024
"""Weights of one channel, evenly spaced, that the search of its scale looks at."""

CANDIDATES = 64
OBSERVERS = Registry("observer")

Range = tuple[float, float]


@dataclass
class Statistics:
    """What is known of one tensor.

    Attributes:
        low, high: extremes over all images.
        lows, highs: extremes of each image.
        counts: histogram over ``[-limit, limit]``, ``2 * BINS`` bins.
        limit: a power of two, at least every magnitude seen; 0 before the first.
    """

    low: float = np.inf
    high: float = -np.inf
    lows: list[float] = field(default_factory=list)
    highs: list[float] = field(default_factory=list)
    counts: np.ndarray = field(default_factory=lambda: np.zeros(2 * BINS))
    limit: float = 0.0

    def update(self, array: np.ndarray) -> None:
        """Add the tensor of a batch, ``[N, ...]``.

        Raises:
            UserError: it holds NaN or infinity.
        """
        flat = array.reshape(len(array), -1) if array.ndim > 1 else array.reshape(1, -1)
        lows, highs = flat.min(axis=1), flat.max(axis=1)
        low, high = float(lows.min()), float(highs.max())
        if not np.isfinite([low, high]).all():
            raise UserError("A tensor of the model is NaN or infinite on a calibration image.", "Check the weights.")
        self.lows.extend(map(float, lows))
        self.highs.extend(map(float, highs))
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._grow(max(abs(low), abs(high)))
        if self.limit > 0:
            stride = max(1, flat.shape[1] // SAMPLES)
            part = flat[:, ::stride].reshape(-1)
            index = ((part + self.limit) * (BINS / self.limit)).astype(np.int32)
            self.counts += np.bincount(np.minimum(index, 2 * BINS - 1), minlength=2 * BINS) * stride

    def _grow(self, magnitude: float) -> None:
        """Widen the histogram to ``magnitude`` by merging neighbouring bins."""
        if magnitude <= 0 or magnitude <= self.limit:
            return
        wanted = float(2.0 ** np.ceil(np.log2(magnitude)))
        if self.limit > 0:
            factor = round(wanted / self.limit)
            if factor > BINS:
                counts = np.zeros(2 * BINS)
                counts[BINS - 1], counts[BINS] = self.counts[:BINS].sum(), self.counts[BINS:].sum()
            else:
                merged = self.counts.reshape(-1, factor).sum(axis=1)
                counts = np.zeros(2 * BINS)
                start = BINS - len(merged) // 2
                counts[start : start + len(merged)] = merged
            self.counts = counts
        self.limit = wanted

    def centers(self) -> np.ndarray:
        """Middle of every bin."""
        return (np.arange(2 * BINS) + 0.5) * (self.limit / BINS) - self.limit

    def filled(self) -> tuple[np.ndarray, np.ndarray]:
        """Middles of the bins that are not empty, and the share of the values in each."""
        used = np.nonzero(self.counts)[0]
        return self.centers()[used], self.counts[used] / max(self.counts.sum(), 1e-12)

    def merge(self, other: Statistics) -> Statistics:
        """The statistics of two tensors that share a scale."""
        result = Statistics(
            min(self.low, other.low),
            max(self.high, other.high),
            [min(pair) for pair in zip(self.lows, other.lows)],
            [max(pair) for pair in zip(self.highs, other.highs)],
        )
        for item in (self, other):
            scaled = Statistics(counts=item.counts.copy(), limit=item.limit)
            scaled._grow(max(self.limit, other.limit))
            result.limit = scaled.limit
            result.counts = result.counts + scaled.counts / max(1.0, scaled.counts.sum())
        return result


@dataclass(frozen=True)
class Scale:
    """What a range becomes: ``real = (integer - zero_point) * scale``."""

    scale: float
    zero_point: int


def scale_of(low: float, high: float, grid: Grid, zero_point: str) -> Scale:
    """Fit the integers of ``grid`` to a range, which is widened to hold zero.

    Args:
        low: smallest value to represent.
        high: largest value to represent.
        grid: of the integers.
        zero_point: as `profiles.Profile.zero_point`.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    if grid.signed:
        return Scale(max(max(high, -low) / grid.qmax, TINY_SCALE), 0)
    if zero_point == "free":
        step = max((high - low) / grid.steps, TINY_SCALE)
        return Scale(step, int(np.clip(round(-low / step), grid.qmin, grid.qmax)))
    if low >= 0:
        return Scale(max(high / grid.qmax, TINY_SCALE), 0)
    middle = (grid.qmax + 1) // 2
    return Scale(max(high / (grid.qmax - middle), -low / middle, TINY_SCALE), middle)


def _fit(limits: Range, grid: Grid, zero_point: str) -> Scale:
    return scale_of(limits[0], limits[1], grid, zero_point)


def rounding_error(statistics: Statistics, choice: Scale, grid: Grid, power: float = 2.0) -> float:
    """Mean of ``|x - rounded x| ** power`` over the histogram."""
    centers, weight = statistics.filled()
    error = np.abs(centers - _rounded(centers, choice, grid))
    return float(((error * error if power == 2.0 else error**power) * weight).sum())


def _rounded(x: np.ndarray, choice: Scale, grid: Grid) -> np.ndarray:
    level = np.clip(np.rint(x / choice.scale) + choice.zero_point, grid.qmin, grid.qmax)
    return (level - choice.zero_point) * choice.scale


Rule = Callable[[Statistics, Grid, str], Range]


def _magnitude(statistics: Statistics) -> float:
    return max(abs(statistics.low), abs(statistics.high))


@OBSERVERS.register("abs_max")
def abs_max(statistics: Statistics, grid: Grid, zero_point: str) -> Range:
    """The largest magnitude; below zero only where the tensor is."""
    top = _magnitude(statistics)
    return (-top if statistics.low < 0 else 0.0), top


@OBSERVERS.register("min_max")
def min_max(statistics: Statistics, grid: Grid, zero_point: str) -> Range:
    """The extremes."""
    return statistics.low, statistics.high


@OBSERVERS.register("avg")
def avg(statistics: Statistics, grid: Grid, zero_point: str) -> Range:
    """The mean over images of each image's extremes."""
    return float(np.mean(statistics.lows)), float(np.mean(statistics.highs))


def _clipped(statistics: Statistics, ratio: float) -> Range:
    """The extremes drawn towards zero."""
    return statistics.low * ratio, statistics.high * ratio


def percentile(statistics: Statistics, share: float) -> Range:
    """The range that leaves out half of ``1 - share`` of the values on each side that the tensor has."""
    total = np.cumsum(statistics.counts)
    if total[-1] == 0:
        return statistics.low, statistics.high
    edges = np.append(statistics.centers() + statistics.limit / (2 * BINS), statistics.limit)
    tail = (1 - share) * total[-1] / (2 if statistics.low < 0 < statistics.high else 1)
    low = edges[int(np.searchsorted(total, tail))] - statistics.limit / BINS
    high = edges[int(np.searchsorted(total, total[-1] - tail))]
    return max(float(low), statistics.low), min(float(high), statistics.high)


@OBSERVERS.register("hist")
def hist(statistics: Statistics, grid: Grid, zero_point: str) -> Range:
    """The range that holds 0.99999 of the values; see `percentile` for another share."""
    return percentile(statistics, 0.99999)


def _search(statistics: Statistics, grid: Grid, zero_point: str, score: Callable[[Scale], float]) -> Range:
    ranges = [_clipped(statistics, ratio) for ratio in np.linspace(1.0, 1 / CANDIDATES, CANDIDATES)]
    return min(ranges, key=lambda item: score(_fit(item, grid, zero_point)))


@OBSERVERS.register("mse", "MSE")
def mse(statistics: Statistics, grid: Grid, zero_point: str) -> Range:
    """Least mean squared error."""
    return _search(statistics, grid, zero_point, lambda choice: rounding_error(statistics, choice, grid))


@OBSERVERS.register("emd")
def emd(statistics: Statistics, grid: Grid, zero_point: str) -> Range:
    """Least difference between the mean magnitudes before and after; of equal ones the widest range."""
    centers, weight = statistics.filled()
    before = float((np.abs(centers) * weight).sum())

    def score(choice: Scale) -> float:
        after = float((np.abs(_rounded(centers, choice, grid)) * weight).sum())
        return round(abs(after - before) / max(before, 1e-12), 5)

    return _search(statistics, grid, zero_point, score)


@OBSERVERS.register("kl", "KL")
def kl(statistics: Statistics, grid: Grid, zero_point: str) -> Range:
    """Least divergence between the histogram of magnitudes, clipped, and its form in ``grid``'s number of bins."""
    magnitudes = statistics.counts[BINS:] + statistics.counts[:BINS][::-1]
    levels = grid.qmax if not grid.signed and statistics.low >= 0 else (grid.steps + 1) // 2
    used = int(np.max(np.nonzero(magnitudes)[0], initial=0)) + 1
    best, chosen = np.inf, used
    for size in range(min(levels, used), used + 1, max(1, used // CANDIDATES)):
        divergence = _divergence(magnitudes, size, levels)
        if divergence < best:
            best, chosen = divergence, size
    return _clipped(statistics, min(1.0, chosen * statistics.limit / BINS / max(_magnitude(statistics), TINY_SCALE)))


def _divergence(magnitudes: np.ndarray, size: int, levels: int) -> float:
    part = magnitudes[:size].astype(np.float64)
    reference = part.copy()
    reference[-1] += magnitudes[size:].sum()
    place = np.minimum(np.arange(size) * levels // size, levels - 1)
    filled = part > 0
    sums = np.bincount(place, weights=part, minlength=levels)
    counts = np.bincount(place, weights=filled.astype(np.float64), minlength=levels)
    spread = np.where(filled, (sums / np.maximum(counts, 1))[place], 0.0)
    p, q = reference / max(reference.sum(), 1e-12), spread / max(spread.sum(), 1e-12)
    mask = p > 0
    return float((p[mask] * np.log(p[mask] / np.maximum(q[mask], 1e-12))).sum())


def choose(statistics: Statistics, grid: Grid, zero_point: str, observer: str, share: float = 0.99999) -> Scale:
    """The scale of a tensor by the observer called ``observer``.

    ``auto`` takes, of all observers, the range with the least ``|error| ** 2.4``: between the squared error, which
    clips the rare large values that decide a class, and the largest error.

    Raises:
        UserError: no observer has this name.
    """
    if observer == "hist":
        return _fit(percentile(statistics, share), grid, zero_point)
    if observer != "auto":
        return _fit(OBSERVERS.get(observer)(statistics, grid, zero_point), grid, zero_point)
    choices = [_fit(OBSERVERS.get(name)(statistics, grid, zero_point), grid, zero_point) for name in AUTO_CHOICES]
    return min(choices, key=lambda choice: rounding_error(statistics, choice, grid, 2.4))


AUTO_CHOICES = ("min_max", "avg", "hist", "kl", "mse", "emd")


def weight_scales(weight: np.ndarray, grid: Grid, search: bool = False) -> np.ndarray:
    """Scales of a weight: shape ``[C]`` along the grid's axis, or ``[]``.

    Args:
        weight: float array.
        grid: symmetric.
        search: take, of 17 fractions of the largest magnitude, that of least squared error; False: the largest itself.
    """
    rows = (
        weight.reshape(1, -1)
        if grid.axis is None
        else np.moveaxis(weight, grid.axis, 0).reshape(weight.shape[grid.axis], -1)
    )
    top = np.maximum(np.abs(rows).max(axis=1) / grid.qmax, TINY_SCALE)
    best = top
    if search:
        rows = rows[:, :: max(1, rows.shape[1] // MOST_IN_A_ROW)]
        least = np.full(len(rows), np.inf)
        for ratio in np.linspace(1.0, 0.6, 17):
            step = (top * ratio)[:, None]
            rounded = np.clip(np.rint(rows / step), grid.qmin, grid.qmax) * step
            error = ((rows - rounded) ** 2).sum(axis=1)
            best = np.where(error < least, top * ratio, best)
            least = np.minimum(error, least)
    return (best if grid.axis is not None else best[0]).astype(np.float32)
