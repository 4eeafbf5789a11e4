"""What is computed from the times of interleaved runs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

PROCESS_SPREAD = 0.006
"""Standard deviation of the log time of one file between processes that load it: memory lies otherwise in each.

By ``benchmarks/self_agreement.py``: no number of runs in the same two processes tells it from a real difference.
"""


@dataclass(frozen=True)
class Comparison:
    """How much faster a candidate is than its base.

    Attributes:
        base: label of the base.
        speedup: time of the base / time of the candidate; above 1 is faster.
        low: lower end of the 95 % confidence interval.
        high: upper end of it.
    """

    base: str
    speedup: float
    low: float
    high: float

    @property
    def no_difference(self) -> bool:
        """Whether the interval holds 1: the measurement shows no difference."""
        return self.low <= 1.0 <= self.high

    @property
    def verdict(self) -> str:
        """The comparison in words."""
        if self.no_difference:
            return "no difference"
        return "faster" if self.speedup > 1 else "slower"


def compare(base_label: str, base: np.ndarray, candidate: np.ndarray, *, seed: int = 0) -> Comparison:
    """Compare two sets of times measured in the same rounds.

    Every round gives one pair, the medians of its two blocks; what slowed the machine in a round slowed both. The
    speed-up is the exponential of the trimmed mean (20 % at each end) of the pairs' log ratios, its interval comes from
    2000 bootstrap samples of the pairs (Efron and Tibshirani 1993, chapter 13, percentile interval widened by
    ``sqrt(n / (n - 1))`` for the few pairs there are), with `PROCESS_SPREAD` of both sides added in squares.

    Args:
        base_label: what the base is called.
        base: milliseconds ``[rounds, runs]`` of the base.
        candidate: the same of the candidate.
        seed: of the bootstrap.
    """
    ratios = np.log(np.median(base, axis=1)) - np.log(np.median(candidate, axis=1))
    rounds = len(ratios)
    middle = _trimmed_mean(ratios[None])[0]
    if rounds < 2:
        return Comparison(base_label, float(np.exp(middle)), 0.0, float("inf"))
    samples = np.random.default_rng(seed).integers(rounds, size=(2000, rounds))
    spread = _trimmed_mean(ratios[samples]) - middle
    below, above = np.quantile(spread, [0.025, 0.975]) * np.sqrt(rounds / (rounds - 1))
    between = 1.96 * np.sqrt(2) * PROCESS_SPREAD
    low, high = middle - np.hypot(below, between), middle + np.hypot(above, between)
    return Comparison(base_label, *(float(np.exp(value)) for value in (middle, low, high)))


def _trimmed_mean(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis without its lowest and highest fifth."""
    cut = values.shape[-1] // 5
    ordered = np.sort(values, axis=-1)
    return ordered[..., cut : values.shape[-1] - cut].mean(axis=-1)
