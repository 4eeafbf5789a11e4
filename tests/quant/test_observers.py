"""Ranges from statistics, against values found by brute force or known in closed form."""

from __future__ import annotations

import numpy as np
import pytest

from paddleseg_slim.errors import UserError
from paddleseg_slim.quant.node import fake_quantize_array, symmetric, unsigned
from paddleseg_slim.quant.observers import (
    AUTO_CHOICES,
    OBSERVERS,
    Statistics,
    choose,
    percentile,
    rounding_error,
    scale_of,
    weight_scales,
)


def seen(*arrays: np.ndarray) -> Statistics:
    statistics = Statistics()
    for array in arrays:
        statistics.update(array.astype("float32"))
    return statistics


def laplace(count: int = 20000, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).laplace(size=(4, count)).astype("float32")


def test_extremes_are_exact_and_the_histogram_grows() -> None:
    statistics = seen(np.array([[0.1, 0.2]]), np.array([[-7.3, 0.5]]), np.array([[100.0, 3.0]]))
    assert (statistics.low, statistics.high) == (pytest.approx(-7.3), 100.0)
    assert statistics.limit == 128 and statistics.counts.sum() == 6
    assert statistics.lows == pytest.approx([0.1, -7.3, 3.0]) and statistics.highs == pytest.approx([0.2, 0.5, 100])


def test_nan_is_refused() -> None:
    with pytest.raises(UserError, match="NaN"):
        seen(np.array([[1.0, np.nan]]))


def test_zero_points() -> None:
    assert scale_of(0, 2.55, unsigned(8), "0_or_middle") == scale_of(0.5, 2.55, unsigned(8), "0_or_middle")
    assert scale_of(0, 2.55, unsigned(8), "0_or_middle").zero_point == 0
    both = scale_of(-1.28, 1.0, unsigned(8), "0_or_middle")
    assert both.zero_point == 128 and both.scale == pytest.approx(0.01)
    free = scale_of(-0.5, 2.05, unsigned(8), "free")
    assert free.zero_point == 50 and free.scale == pytest.approx(0.01)
    assert scale_of(-1.27, 0.3, symmetric(8), "0").scale == pytest.approx(0.01)


def test_simple_observers() -> None:
    statistics = seen(np.array([[-1.0, 3.0], [-2.0, 5.0]]))
    rules = {name: OBSERVERS.get(name)(statistics, unsigned(8), "free") for name in ("abs_max", "min_max", "avg")}
    assert rules == {"abs_max": (-5, 5), "min_max": (-2, 5), "avg": (-1.5, 4)}


def test_percentile_leaves_out_the_tail() -> None:
    values = np.append(np.linspace(0, 1, 9990), np.full(10, 50.0)).reshape(1, -1)
    low, high = percentile(seen(values), 0.998)
    assert low >= 0 and 0.95 < high < 1.2


def test_mse_is_as_good_as_brute_force() -> None:
    data = laplace()
    statistics, grid = seen(data), symmetric(4)
    found = choose(statistics, grid, "0", "mse")
    errors = [
        ((data - fake_quantize_array(data, np.float32(s), grid)) ** 2).mean() for s in np.linspace(0.05, 2.0, 200)
    ]
    ours = ((data - fake_quantize_array(data, np.float32(found.scale), grid)) ** 2).mean()
    assert ours <= 1.03 * min(errors)
    assert rounding_error(statistics, found, grid) == pytest.approx(ours, rel=0.05)


def test_kl_clips_an_outlier_and_keeps_a_plain_range() -> None:
    outlier = np.append(np.abs(laplace()).reshape(-1), 400.0).reshape(1, -1)
    assert choose(seen(outlier), unsigned(8), "0_or_middle", "kl").scale * 255 < 130
    flat = np.linspace(0, 1, 50000).reshape(1, -1)
    assert choose(seen(flat), unsigned(8), "0_or_middle", "kl").scale * 255 > 0.9


def test_auto_is_no_worse_than_any_other() -> None:
    statistics, grid = seen(laplace()), unsigned(8)
    errors = {
        name: rounding_error(statistics, choose(statistics, grid, "0_or_middle", name), grid, 2.4)
        for name in (*AUTO_CHOICES, "auto")
    }
    assert errors["auto"] == min(errors.values())


def test_merged_statistics_cover_both() -> None:
    merged = seen(np.array([[0.0, 1.0]])).merge(seen(np.array([[-8.0, 3.0]])))
    assert (merged.low, merged.high, merged.limit) == (-8, 3, 8)
    assert merged.counts.sum() == pytest.approx(2)


def test_weight_scales_by_channel_and_search() -> None:
    weight = np.random.default_rng(0).laplace(size=(8, 4, 3, 3)).astype("float32")
    grid = symmetric(4, 0)
    plain, searched = weight_scales(weight, grid), weight_scales(weight, grid, search=True)
    np.testing.assert_allclose(plain, np.abs(weight).reshape(8, -1).max(1) / 7, rtol=1e-6)
    errors = [((weight - fake_quantize_array(weight, s, grid)) ** 2).sum((1, 2, 3)) for s in (plain, searched)]
    assert (errors[1] <= errors[0] + 1e-6).all() and errors[1].sum() < errors[0].sum()
    assert weight_scales(np.zeros((2, 1, 1, 1), "float32"), grid).min() > 0


def test_an_unknown_observer_names_the_nearest() -> None:
    with pytest.raises(UserError, match="mse"):
        choose(seen(laplace(100)), unsigned(8), "free", "mes")
