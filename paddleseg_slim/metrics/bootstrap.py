"""Is one model better than another on these images, or was it luck? The paired bootstrap."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Difference:
    """How much better a candidate is than its base on the same images.

    Attributes:
        value: score of the candidate minus score of the base.
        low: lower end of the 95 % interval.
        high: upper end of it.
    """

    value: float
    low: float
    high: float

    @property
    def no_difference(self) -> bool:
        """Whether the interval holds 0: these images show no difference."""
        return self.low <= 0.0 <= self.high


def paired_difference(
    base: np.ndarray,
    candidate: np.ndarray,
    score: Callable[[np.ndarray], float],
    *,
    repeats: int = 1000,
    seed: int = 0,
) -> Difference:
    """Compare two models by what each counted on every image (Efron and Tibshirani 1993, percentile interval).

    A bootstrap sample draws N images with replacement, the same for both models: what is hard in an image is hard for
    both and cancels. The score is computed from the summed counts, as an evaluation does.

    Args:
        base: counts of the base, ``[N, ...]``, of N images.
        candidate: counts of the candidate on the same images in the same order.
        score: from summed counts ``[...]`` to the number that decides.
        repeats: bootstrap samples.
        seed: of the draws.

    Raises:
        ValueError: the shapes differ, or there is no image.
    """
    if base.shape != candidate.shape or not len(base):
        raise ValueError(f"counts of {base.shape} and {candidate.shape} cannot be paired")
    images = len(base)
    draws = np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), size=repeats)
    sums = [np.tensordot(draws, counts.astype(np.float64), axes=1) for counts in (base, candidate)]
    spread = [score(second) - score(first) for first, second in zip(*sums)]
    low, high = np.quantile(spread, [0.025, 0.975])
    return Difference(score(candidate.sum(0)) - score(base.sum(0)), float(low), float(high))
