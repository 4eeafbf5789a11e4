"""How many channels each group keeps: an optimisation over loss curves under exact costs.

Minimise the sum of the groups' predicted losses subject to limits on FLOPs, parameters or latency. Costs are exact:
FLOPs and parameters are quadratic polynomials of the groups' widths (a convolution multiplies the width it reads with
the width it writes), so nothing is re-traced and nothing is linearised away. The solver is Lagrangian: for one
multiplier, coordinate descent over all options of every group; bisection on the multiplier; then the slack that
remains is spent (`_spend_slack`) so that a budget is met with the least overshoot the options allow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from paddleseg_slim.errors import GoalNotMet

_SWEEPS = 12
_BISECTIONS = 50
_TOLERANCE = 1e-9  # relative: costs are sums of floats


class WidthCost:
    """A cost as a polynomial of the groups' widths: ``constant + linear @ w + w @ quadratic @ w / 2``.

    Args:
        constant: the part that pruning cannot change.
        linear: ``[groups]``.
        quadratic: symmetric ``[groups, groups]``, sparse.
    """

    def __init__(self, constant: float, linear: np.ndarray, quadratic: sparse.spmatrix | np.ndarray) -> None:
        self.constant = float(constant)
        self.linear = np.asarray(linear, dtype=np.float64)
        self.quadratic = sparse.csr_matrix(quadratic, dtype=np.float64)
        self.diagonal = self.quadratic.diagonal()

    def __call__(self, widths: np.ndarray) -> float:
        """Cost of the given widths ``[groups]``."""
        w = np.asarray(widths, dtype=np.float64)
        return float(self.constant + self.linear @ w + 0.5 * w @ (self.quadratic @ w))

    def slope(self, widths: np.ndarray) -> np.ndarray:
        """Gradient of the cost at ``widths``, ``[groups]``."""
        return self.linear + self.quadratic @ np.asarray(widths, dtype=np.float64)

    def change(self, slope: np.ndarray, group: int | np.ndarray, step: float | np.ndarray) -> np.ndarray:
        """Exact change of the cost when one group's width changes by ``step``, all others fixed."""
        return step * slope[group] + 0.5 * self.diagonal[group] * np.square(step)

    def scaled(self, factor: float) -> WidthCost:
        """The same cost in another unit."""
        return WidthCost(self.constant * factor, self.linear * factor, self.quadratic * factor)

    def __add__(self, other: WidthCost) -> WidthCost:
        return WidthCost(self.constant + other.constant, self.linear + other.linear, self.quadratic + other.quadratic)


@dataclass(frozen=True)
class Options:
    """The widths one group may take.

    Attributes:
        name: the group's name, for messages.
        widths: kept channels, strictly ascending; the last one is the untouched width.
        losses: predicted loss of each width, not increasing, 0 at the last.
    """

    name: str
    widths: np.ndarray
    losses: np.ndarray


@dataclass(frozen=True)
class Limit:
    """An upper limit on a cost.

    Attributes:
        name: what is limited: ``FLOPs``, ``Parameters``.
        cost: the cost of the widths.
        most: the limit.
    """

    name: str
    cost: WidthCost
    most: float


@dataclass(frozen=True)
class Plan:
    """The answer of the solver.

    Attributes:
        widths: kept channels of every group, int64 ``[groups]``.
        loss: predicted loss.
        costs: cost by the name of its limit.
    """

    widths: np.ndarray
    loss: float
    costs: dict[str, float]


def width_options(
    full: int, *, align: int = 1, at_least: int = 1, at_most_removed: float = 1.0, fixed: bool = False
) -> np.ndarray:
    """Widths a group of ``full`` channels may take: multiples of ``align`` down to a floor, and the untouched width.

    Args:
        align: every reduced width is a multiple of this.
        at_least: the floor; it is raised to ``align``.
        at_most_removed: largest part of the channels that may go, in [0, 1].
        fixed: the group is not to be touched.
    """
    floor = max(at_least, align, int(np.ceil(full * (1.0 - at_most_removed) - 1e-9)))
    if fixed or floor >= full:
        return np.array([full], dtype=np.int64)
    first = -(-floor // align) * align
    return np.append(np.arange(first, full, align, dtype=np.int64), full)


class _Search:
    """Coordinate descent over the options of all groups, on one weighted sum of the limited costs."""

    def __init__(self, options: Sequence[Options], cost: WidthCost) -> None:
        self.options = options
        self.cost = cost
        self.full = np.array([len(o.widths) - 1 for o in options])
        self.movable = np.flatnonzero(self.full > 0)

    def widths(self, picks: np.ndarray) -> np.ndarray:
        return np.array([o.widths[p] for o, p in zip(self.options, picks)], dtype=np.float64)

    def loss(self, picks: np.ndarray) -> float:
        return float(sum(o.losses[p] for o, p in zip(self.options, picks)))

    def step(self, picks: np.ndarray, groups: np.ndarray, by: int) -> tuple[np.ndarray, np.ndarray]:
        """Change of width and of loss when each of ``groups`` goes ``by`` options up or down."""
        pairs = [(self.options[g], picks[g], picks[g] + by) for g in groups]
        widths = np.array([o.widths[new] - o.widths[old] for o, old, new in pairs], dtype=np.float64)
        return widths, np.array([o.losses[new] - o.losses[old] for o, old, new in pairs], dtype=np.float64)

    def descend(self, multiplier: float, picks: np.ndarray) -> np.ndarray:
        """Lower ``loss + multiplier * cost`` group by group until nothing moves."""
        picks = picks.copy()
        widths = self.widths(picks)
        slope = self.cost.slope(widths)
        columns = self.cost.quadratic
        for _ in range(_SWEEPS):
            moved = False
            for g in self.movable.tolist():
                option = self.options[g]
                steps = option.widths - widths[g]
                value = option.losses + multiplier * self.cost.change(slope, g, steps)
                best = len(value) - 1 - int(np.argmin(value[::-1]))  # among equals the widest
                if best != picks[g] and value[best] < value[picks[g]]:
                    row = slice(columns.indptr[g], columns.indptr[g + 1])
                    slope[columns.indices[row]] += columns.data[row] * steps[best]
                    widths[g], picks[g], moved = option.widths[best], best, True
            if not moved:
                break
        return picks


def _fits(limits: Sequence[Limit], widths: np.ndarray) -> bool:
    return all(limit.cost(widths) <= limit.most * (1 + _TOLERANCE) for limit in limits)


def _spend_slack(search: _Search, limits: Sequence[Limit], picks: np.ndarray) -> np.ndarray:
    """Widen groups one option at a time, best loss for the cost first, until no group can grow within the limits."""
    picks = picks.copy()
    while True:
        growable = np.flatnonzero(picks < search.full)
        if not growable.size:
            return picks
        widths = search.widths(picks)
        steps, lost = search.step(picks, growable, 1)
        fits = np.ones(len(growable), dtype=bool)
        for limit in limits:
            room = limit.most * (1 + _TOLERANCE) - limit.cost(widths)
            fits &= limit.cost.change(limit.cost.slope(widths), growable, steps) <= room
        if not fits.any():
            return picks
        price = np.maximum(search.cost.change(search.cost.slope(widths), growable, steps), 1e-300)
        worth = np.where(fits, (1e-12 - lost) / price, -np.inf)
        picks[growable[int(np.argmax(worth))]] += 1


def _swap(search: _Search, limits: Sequence[Limit], picks: np.ndarray, rounds: int = 200) -> np.ndarray:
    """Exchange: one group a step narrower, another a step wider, while that lowers the predicted loss."""
    picks = picks.copy()
    for _ in range(rounds):
        widths, slope = search.widths(picks), search.cost.slope(search.widths(picks))
        down, up = np.flatnonzero(picks > 0), np.flatnonzero(picks < search.full)
        if not (down.size and up.size):
            return picks

        (down_step, down_loss), (up_step, up_loss) = search.step(picks, down, -1), search.step(picks, up, 1)
        loss = down_loss[:, None] + up_loss[None, :]
        price = search.cost.change(slope, down, down_step)[:, None] + search.cost.change(slope, up, up_step)[None, :]
        room = min((limit.most - limit.cost(widths)) / limit.most for limit in limits)
        loss = np.where((down[:, None] == up[None, :]) | (price > room + 1e-3), np.inf, loss)
        for flat in np.argsort(loss, axis=None)[:20]:
            i, j = np.unravel_index(flat, loss.shape)
            trial = picks.copy()
            trial[down[i]] -= 1
            trial[up[j]] += 1
            if loss[i, j] < -1e-12 and _fits(limits, search.widths(trial)):
                picks = trial
                break
        else:
            return picks
    return picks


def _bisect(search: _Search, limits: Sequence[Limit]) -> np.ndarray:
    """Picks for the smallest multiplier whose widths fit the limits."""
    low, high = 0.0, 1.0
    picks = search.descend(high, search.full)
    while not _fits(limits, search.widths(picks)) and high < 1e12:
        low, high = high, high * 8.0
        picks = search.descend(high, search.full)
    if not _fits(limits, search.widths(picks)):
        picks = np.zeros_like(search.full)  # the narrowest of everything, checked by the caller
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        trial = search.descend(middle, search.full)
        if _fits(limits, search.widths(trial)):
            high, picks = middle, trial
        else:
            low = middle
        if high - low <= 1e-7 * high:
            break
    return picks


def check_possible(widths: Sequence[np.ndarray], limits: Sequence[Limit]) -> None:
    """Refuse limits that the widths alone make impossible.

    Args:
        widths: of every group, ascending; the last one is the untouched width.
        limits: on the costs.

    Raises:
        GoalNotMet: even the narrowest widths cost more than a limit; the message names what is possible.
    """
    narrowest, full = (np.array([own[end] for own in widths], dtype=np.float64) for end in (0, -1))
    for limit in limits:
        least, most = limit.cost(narrowest), limit.cost(full)
        if least > limit.most * (1 + _TOLERANCE):
            asked, possible = (100 * (1 - cost / most) for cost in (limit.most, least))
            raise GoalNotMet(
                f"{limit.name} cannot come down to {limit.most:,.0f} ({asked:.1f} % removed): at the narrowest widths "
                f"allowed {least:,.0f} of {most:,.0f} remain, {possible:.1f} % removed.",
                "Ask for less, use a smaller --align, or protect fewer layers.",
            )


def solve(options: Sequence[Options], limits: Sequence[Limit]) -> Plan:
    """Widths with the least predicted loss that keep every limit.

    Raises:
        GoalNotMet: see `check_possible`.
    """
    check_possible([o.widths for o in options], limits)
    full = np.array([o.widths[-1] for o in options], dtype=np.float64)
    binding = [limit for limit in limits if limit.cost(full) > limit.most * (1 + _TOLERANCE)]
    picks = np.array([len(o.widths) - 1 for o in options])
    if binding:
        total = binding[0].cost.scaled(1.0 / binding[0].most)
        for limit in binding[1:]:
            total = total + limit.cost.scaled(1.0 / limit.most)
        search = _Search(options, total)
        picks = _spend_slack(search, binding, _bisect(search, binding))
        picks = _spend_slack(search, binding, _swap(search, binding, picks))
    widths = np.array([o.widths[p] for o, p in zip(options, picks)], dtype=np.int64)
    loss = float(sum(o.losses[p] for o, p in zip(options, picks)))
    return Plan(widths, loss, {limit.name: limit.cost(widths) for limit in limits})


def solve_drop(options: Sequence[Options], cost: WidthCost, most_loss: float, name: str = "FLOPs") -> Plan:
    """Widths with the least cost whose predicted loss is at most ``most_loss`` (same unit as the curves)."""
    search = _Search(options, cost.scaled(1.0 / cost(np.array([o.widths[-1] for o in options], dtype=np.float64))))
    low, high, picks = 0.0, 1.0, search.full
    while search.loss(search.descend(high, search.full)) <= most_loss and high < 1e12:
        low, high = high, high * 8.0
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        trial = search.descend(middle, search.full)
        if search.loss(trial) <= most_loss:
            low, picks = middle, trial
        else:
            high = middle
    while True:  # spend what is left of the loss: the step that saves most for its loss
        widths = search.widths(picks)
        shrinkable = np.flatnonzero(picks > 0)
        steps, more = search.step(picks, shrinkable, -1)
        ok = more <= most_loss - search.loss(picks) + 1e-15
        if not ok.any():
            break
        saved = -search.cost.change(search.cost.slope(widths), shrinkable, steps)
        picks = picks.copy()
        picks[shrinkable[int(np.argmax(np.where(ok, saved / (more + 1e-9), -np.inf)))]] -= 1
    widths = search.widths(picks).astype(np.int64)
    return Plan(widths, search.loss(picks), {name: cost(widths)})
