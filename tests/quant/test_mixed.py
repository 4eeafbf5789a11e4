"""The choice of float layers against trying all choices."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from paddleseg_slim.errors import UserError
from paddleseg_slim.quant.analysis import LayerError
from paddleseg_slim.quant.mixed import choose_float


@pytest.mark.parametrize("seed", range(5))
def test_best_of_all_choices(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = [LayerError(f"l{i}", float(rng.random()), int(rng.integers(1, 100))) for i in range(9)]
    total = sum(row.macs for row in rows)
    found = choose_float(rows, 0.3)
    kept = [row for row in rows if row.layer in found]
    assert sum(row.macs for row in kept) <= 0.3 * total
    best = max(
        sum(row.error for row in part)
        for size in range(10)
        for part in itertools.combinations(rows, size)
        if sum(row.macs for row in part) <= 0.3 * total
    )
    assert sum(row.error for row in kept) == pytest.approx(best)
    assert [row.error for row in sorted(kept, key=lambda r: found.index(r.layer))] == sorted(
        (row.error for row in kept), reverse=True
    )


def test_layers_without_gain_or_error() -> None:
    rows = [LayerError("slower", 1e-9, 5), LayerError("exact", 0.0, 5), LayerError("bad", 0.5, 90)]
    assert choose_float(rows, 0.0, gains=[-0.1, 1.0, 3.0]) == ["slower"]
    assert choose_float(rows, 1.0) == ["bad"]
    with pytest.raises(UserError, match="share"):
        choose_float(rows, 5)
