"""The budget solver against brute force, and the properties a user relies on."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from paddleseg_slim.errors import GoalNotMet
from paddleseg_slim.prune.budget import Limit, Options, WidthCost, solve, solve_drop, width_options


def problem(groups: int, full: int, align: int, seed: int) -> tuple[list[Options], WidthCost]:
    rng = np.random.default_rng(seed)
    options = []
    for g in range(groups):
        widths = width_options(full, align=align, at_most_removed=0.9)
        gone = 1 - widths / full
        options.append(Options(f"g{g}", widths, rng.uniform(0.05, 1) * gone ** rng.uniform(1, 3)))
    coupling = np.zeros((groups, groups))
    for g in range(groups - 1):  # a chain of convolutions
        coupling[g, g + 1] = coupling[g + 1, g] = rng.uniform(1, 9)
    coupling[0, 0] = 2.0  # a residual convolution: both widths are the same group
    return options, WidthCost(50.0, rng.uniform(1, 20, groups), coupling)


def test_cost_change_is_exact() -> None:
    _, cost = problem(5, 32, 1, 0)
    widths = np.array([32.0, 20, 9, 32, 4])
    for group, step in [(0, -7.0), (2, 5.0), (4, 28.0)]:
        other = widths.copy()
        other[group] += step
        change = cost.change(cost.slope(widths), group, step)
        assert change == pytest.approx(cost(other) - cost(widths), rel=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_close_to_brute_force(seed: int) -> None:
    options, cost = problem(4, 16, 2, seed)
    full = np.array([16.0] * 4)
    limit = Limit("FLOPs", cost, 0.6 * cost(full))
    best = min(
        sum(o.losses[i] for o, i in zip(options, picks))
        for picks in itertools.product(*(range(len(o.widths)) for o in options))
        if cost(np.array([o.widths[i] for o, i in zip(options, picks)])) <= limit.most
    )
    plan = solve(options, [limit])
    assert plan.costs["FLOPs"] <= limit.most * (1 + 1e-6)
    assert best - 1e-9 <= plan.loss <= best * 1.05 + 1e-6


@pytest.mark.parametrize("ratio", [0.05, 0.2, 0.3, 0.5, 0.7])
def test_overshoot_within_one_percent(ratio: float) -> None:
    options, cost = problem(30, 64, 1, 3)
    full = cost(np.full(30, 64.0))
    plan = solve(options, [Limit("FLOPs", cost, (1 - ratio) * full)])
    removed = 1 - plan.costs["FLOPs"] / full
    assert ratio - 1e-6 <= removed <= ratio + 0.01


def test_monotone_and_aligned() -> None:
    options, cost = problem(20, 60, 8, 5)  # 60 is no multiple of 8: only an untouched group may keep it
    full = cost(np.full(20, 60.0))
    left = []
    for ratio in (0.0, 0.1, 0.3, 0.5, 0.7):
        plan = solve(options, [Limit("FLOPs", cost, (1 - ratio) * full)])
        assert all(w % 8 == 0 or w == 60 for w in plan.widths)
        left.append(plan.costs["FLOPs"])
    assert left == sorted(left, reverse=True)
    assert left[0] == full


def test_two_limits_hold_together() -> None:
    options, flops = problem(10, 32, 1, 1)
    params = WidthCost(0, np.arange(1.0, 11.0), np.zeros((10, 10)))
    full = np.full(10, 32.0)
    limits = [Limit("FLOPs", flops, 0.8 * flops(full)), Limit("Parameters", params, 0.5 * params(full))]
    plan = solve(options, limits)
    assert all(limit.cost(plan.widths) <= limit.most * (1 + 1e-6) for limit in limits)


def test_impossible_says_what_is_possible() -> None:
    options, cost = problem(3, 8, 4, 0)
    with pytest.raises(GoalNotMet, match=r"% removed"):
        solve(options, [Limit("FLOPs", cost, 1.0)])


def test_drop_limit_is_kept_and_used() -> None:
    options, cost = problem(8, 32, 1, 2)
    tight, loose = solve_drop(options, cost, 0.01), solve_drop(options, cost, 0.2)
    assert tight.loss <= 0.01 and loose.loss <= 0.2
    assert loose.costs["FLOPs"] < tight.costs["FLOPs"] < cost(np.full(8, 32.0))


@pytest.mark.parametrize(
    ("full", "align", "expected"),
    [(32, 8, [8, 16, 24, 32]), (20, 8, [8, 16, 20]), (8, 8, [8]), (4, 8, [4]), (3, 1, [1, 2, 3])],
)
def test_width_options(full: int, align: int, expected: list[int]) -> None:
    assert width_options(full, align=align).tolist() == expected
