"""Which layers to leave in float: an integer program over what each costs and how much it hurts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from paddleseg_slim.errors import UserError
from paddleseg_slim.quant.analysis import LayerError


def choose_float(
    rows: Sequence[LayerError], budget: float, gains: Sequence[float] | None = None, least_error: float = 1e-6
) -> list[str]:
    """Choose the layers to leave in float so that the least error remains, within a budget of lost gains.

    Minimises the sum of the errors of the layers that are quantized (errors of single layers add up to first order,
    as they are independent) subject to ``sum of gains of float layers <= budget * sum of all gains``; solved exactly
    by HiGHS.

    Args:
        rows: error and MACs of each layer (`analysis.layer_errors`).
        budget: share of the gain that may be given up, 0 to 1.
        gains: what quantizing each layer gains, for example measured milliseconds; its MACs when None. A layer with
            a gain of 0 or less is left in float at no cost.
        least_error: layers with a smaller error are never left in float.

    Returns:
        names of the layers to leave in float, worst first.

    Raises:
        UserError: the budget is no share.
    """
    if not 0 <= budget <= 1:
        raise UserError(f"The budget is {budget}.", "Give a share from 0 to 1.")
    gain = np.array([row.macs for row in rows] if gains is None else list(gains), dtype=float)
    error = np.array([row.error for row in rows])
    positive = np.maximum(gain, 0.0)
    usable = ((error >= least_error) | (gain <= 0)).astype(float)
    scale = max(float(error.max(initial=0.0)), 1e-12)
    worth = np.where(gain <= 0, error / scale + 1.0, error / scale)
    limit = budget * positive.sum()
    result = milp(
        -worth,
        constraints=LinearConstraint(positive[None, :], -np.inf, limit),
        integrality=np.ones(len(rows)),
        bounds=Bounds(np.zeros(len(rows)), usable),
    )
    chosen = [row for row, taken in zip(rows, np.round(result.x)) if taken]
    return [row.layer for row in sorted(chosen, key=lambda row: -row.error)]
