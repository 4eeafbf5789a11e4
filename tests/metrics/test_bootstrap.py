"""The paired bootstrap: intervals that hold the truth, and no more than they must."""

from __future__ import annotations

import numpy as np
import pytest

from paddleseg_slim.metrics.bootstrap import paired_difference


def share(counts: np.ndarray) -> float:
    return float(counts[0] / counts.sum())


def hits(rng: np.random.Generator, images: int, gain: float) -> tuple[np.ndarray, np.ndarray]:
    """Right and wrong pixels of two models: images are easy or hard for both, the second gains ``gain``."""
    easy = rng.uniform(0.3, 0.9, images)
    first = rng.binomial(1000, easy)
    second = rng.binomial(1000, np.clip(easy + gain, 0, 1))
    return np.stack([first, 1000 - first], 1), np.stack([second, 1000 - second], 1)


def test_the_interval_holds_the_true_difference_about_nineteen_times_of_twenty() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for seed in range(100):
        found = paired_difference(*hits(rng, 80, 0.02), share, repeats=300, seed=seed)
        held += found.low <= 0.02 <= found.high
    assert 88 <= held <= 100


def test_pairs_show_what_the_spread_of_the_images_would_hide() -> None:
    base, better = hits(np.random.default_rng(1), 200, 0.02)
    found = paired_difference(base, better, share)
    assert found.low > 0 and not found.no_difference
    assert found.high - found.low < 0.25 * np.std(base[:, 0] / 1000)
    assert paired_difference(base, base, share) == paired_difference(better, better, share)
    assert paired_difference(base, base, share).no_difference


def test_counts_of_other_images_are_refused() -> None:
    base, other = hits(np.random.default_rng(2), 10, 0.0)
    with pytest.raises(ValueError, match="cannot be paired"):
        paired_difference(base, other[:9], share)
