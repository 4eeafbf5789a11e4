"""From a goal to a pruned model: which groups may change, the solver, the cut, and what was really reached."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from paddleseg_slim.errors import GoalNotMet, UserError
from paddleseg_slim.graph import GraphLayer
from paddleseg_slim.prune.account import Account, account
from paddleseg_slim.prune.budget import Limit, Options, Plan, check_possible, solve, solve_drop, width_options
from paddleseg_slim.prune.channels import ChannelGroups, Group, find_groups
from paddleseg_slim.prune.curves import Curves
from paddleseg_slim.prune.patterns import compiled, no_match
from paddleseg_slim.prune.ranking import channels_to_keep
from paddleseg_slim.prune.surgery import cut

MOST_REMOVED = 0.9
"""No group loses more than this part of its channels: beyond it nothing was measured."""

SPREAD = 0.05
"""See `_spread`."""

_ROUNDS = 12

_FURTHER = 0.98
"""How much faster a model is aimed at after one that was too slow: near the limit, noise decides."""

_AS_ASKED = {"FLOPs": 1.0, "Parameters": 1.0}


@dataclass(frozen=True)
class Goal:
    """What is asked for; at least one of the first four.

    Attributes:
        flops_removed: part of the FLOPs to remove, in [0, 1).
        params: most parameters that may remain.
        max_drop: most loss of the metric, absolute (0.01 is one point of 100).
        latency_ms: longest time of one run, as `measure` of `prune_to_latency` gives it.
        align: reduced widths are multiples of this.
        keep: regular expressions; what matches stays untouched.
        limits: (regular expression, largest part of the channels that may go).
    """

    flops_removed: float | None = None
    params: float | None = None
    max_drop: float | None = None
    latency_ms: float | None = None
    align: int = 8
    keep: tuple[str, ...] = ()
    limits: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        if self.flops_removed is not None and not 0 <= self.flops_removed < 1:  # NaN too
            raise UserError(
                f"The pruning ratio is {self.flops_removed}.", "Give the part of the FLOPs to remove: 0 <= ratio < 1."
            )
        for name in ("params", "latency_ms"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise UserError(f"The goal {name} is {value}.", "Give a positive number.")
        if self.max_drop is not None and not 0 <= self.max_drop < 1:
            raise UserError(f"The largest drop is {self.max_drop}.", "Give a part of 1: 0.01 is one point of mIoU.")
        if self.align < 1:
            raise UserError(f"Widths cannot be multiples of {self.align}.", "Give --align 1, 8 or 16.")

    def __str__(self) -> str:
        """What is asked for, in words."""
        parts = []
        if self.flops_removed is not None:
            parts.append(f"{100 * self.flops_removed:.4g} % fewer FLOPs")
        if self.params is not None:
            parts.append(f"at most {self.params:,.0f} parameters")
        if self.latency_ms is not None:
            parts.append(f"at most {self.latency_ms:g} ms")
        if self.max_drop is not None:
            parts.append(f"a predicted drop of at most {self.max_drop:g}")
        return ", ".join(parts)


@dataclass(frozen=True)
class Pruned:
    """A pruned model and what was reached.

    Attributes:
        model: the new model; the one it was made of is untouched.
        widths: group -> (before, after), for the groups that changed.
        macs, params: before and after, at the size that the groups were found at.
        predicted_loss: sum of the curves, relative to the baseline; ``predicted_drop``: in the metric's own unit.
        account: of every group and layer.
    """

    model: GraphLayer
    widths: dict[str, tuple[int, int]]
    macs: tuple[int, int]
    params: tuple[int, int]
    predicted_loss: float
    account: Account
    predicted_drop: float

    @property
    def flops_removed(self) -> float:
        """Part of the FLOPs that went."""
        return 1 - self.macs[1] / self.macs[0]


def _matches(pattern: str, groups: ChannelGroups) -> list[Group]:
    """Groups whose name, layers or parameters match.

    Raises:
        UserError: the expression is malformed or matches nothing; the remedy has the nearest names.
    """
    expression = compiled(pattern)
    names = {g.name: [g.name, *g.layers, *(m.parameter for m in g.members)] for g in groups.groups}
    found = [groups.by_name[name] for name, texts in names.items() if any(expression.search(t) for t in texts)]
    if not found:
        fixed = [layer.node for layer in groups.layers() if expression.search(layer.node)]
        if fixed:
            return []  # the layer exists; it cannot be pruned anyway
        raise no_match(pattern, {layer.node for layer in groups.layers()} | groups.by_name.keys())
    return found


def _kept(groups: ChannelGroups, goal: Goal) -> set[str]:
    """Names of the groups that are asked to stay."""
    return {g.name for pattern in goal.keep for g in _matches(pattern, groups)}


def widths_for(groups: ChannelGroups, goal: Goal, known: Collection[str]) -> dict[str, np.ndarray]:
    """Widths that every group may take, ascending; only those ``known`` may change.

    Raises:
        UserError: a regular expression is malformed or matches nothing.
    """
    kept = _kept(groups, goal)
    most: dict[str, float] = {}
    for pattern, part in goal.limits:
        for group in _matches(pattern, groups):
            most[group.name] = min(part, most.get(group.name, 1.0))
    table = {}
    for group in groups.groups:
        fixed = group.name in kept or group.name not in known
        removed = min(most.get(group.name, MOST_REMOVED), MOST_REMOVED)
        step = group.step(goal.align)
        widths = width_options(group.width, align=step, at_most_removed=removed, fixed=fixed)
        if group.shares_an_axis and not fixed:  # with others on the axis, what goes must be a multiple
            least = max(1, math.ceil(group.width * (1 - removed) - 1e-9))
            widths = np.arange(group.width, least - 1, -step, dtype=np.int64)[::-1]
        table[group.name] = widths
    return table


def check_goal(groups: ChannelGroups, goal: Goal) -> None:
    """Refuse what no sensitivities can make possible.

    Raises:
        UserError: a regular expression is malformed or matches nothing.
        GoalNotMet: even the narrowest widths allowed cost more than is asked for.
    """
    widths = widths_for(groups, goal, groups.by_name)
    check_possible(list(widths.values()), _limits(groups, goal, _AS_ASKED))


def is_met(groups: ChannelGroups, goal: Goal) -> bool:
    """Whether the model costs no more than is asked for already; a drop or a latency is never said to be."""
    limits = _limits(groups, goal, _AS_ASKED)
    open_end = goal.max_drop is not None and not limits
    return not open_end and goal.latency_ms is None and all(limit.cost(groups.widths) <= limit.most for limit in limits)


def check_latency(groups: ChannelGroups, goal: Goal, measure: Callable[[Sequence[GraphLayer]], list[float]]) -> None:
    """Refuse a time that even the narrowest model allowed takes longer than.

    Args:
        groups: of the model.
        goal: with ``latency_ms``.
        measure: as for `prune_to_latency`.

    Raises:
        GoalNotMet: measured twice, it is not fast enough.
    """
    assert goal.latency_ms is not None
    widths = widths_for(groups, goal, groups.by_name)
    narrowest = cut(groups, {name: np.arange(own[0]) for name, own in widths.items() if own[0] < own[-1]})
    fastest = math.inf
    for _ in range(2):
        whole, own_time = measure([groups.model, narrowest])
        fastest = min(fastest, own_time)
        if fastest <= goal.latency_ms:
            return
    raise GoalNotMet(
        f"{goal.latency_ms:g} ms cannot be reached: at the narrowest widths allowed a run takes {fastest:.2f} ms, "
        f"unpruned {whole:.2f} ms.",
        "Ask for a longer time, use a smaller --align, or protect fewer layers.",
    )


def options_for(groups: ChannelGroups, curves: Curves, goal: Goal, spread: bool = True) -> list[Options]:
    """Widths and predicted losses of every group; groups without a curve stay as they are."""
    options = []
    for name, widths in widths_for(groups, goal, curves.groups).items():
        curve = curves.groups.get(name)
        losses = np.zeros(len(widths)) if curve is None else curve.loss_at(widths)
        if spread and len(widths) > 1:
            losses = losses + _spread(curves, widths)
        options.append(Options(name, widths, losses - losses[-1]))
    return options


def _spread(curves: Curves, widths: np.ndarray) -> np.ndarray:
    """A small convex loss on what is removed of a group, in proportion to the mean loss of emptying one.

    Every curve is measured with all other groups whole. Without this the solver empties the few groups that seem free.
    """
    ends = [float(curve.fitted()[1][0]) for curve in curves.groups.values()]
    return SPREAD * float(np.mean(ends)) * np.square(1 - widths / widths[-1])


def _limits(groups: ChannelGroups, goal: Goal, tighter: Mapping[str, float]) -> list[Limit]:
    limits = []
    if goal.flops_removed is not None:
        whole = groups.macs(groups.widths)
        limits.append(Limit("FLOPs", groups.macs, whole * (1 - goal.flops_removed) * tighter["FLOPs"]))
    if goal.params is not None:
        limits.append(Limit("Parameters", groups.parameters, goal.params * tighter["Parameters"]))
    return limits


def _solve(groups: ChannelGroups, curves: Curves, goal: Goal, tighter: Mapping[str, float]) -> Plan:
    if goal.max_drop is not None and curves.mode not in ("exact", "fast"):
        raise UserError(
            f"A largest drop cannot be kept with sensitivities that are not measured ({curves.mode}).",
            "Use --sensitivity exact or fast, or leave --max-drop out.",
        )
    limits = _limits(groups, goal, tighter)
    bare = options_for(groups, curves, goal, spread=False)
    if not limits:
        assert goal.max_drop is not None
        return solve_drop(bare, groups.macs, goal.max_drop / curves.baseline)
    plan = solve(options_for(groups, curves, goal), limits)
    picks = [int(np.searchsorted(o.widths, width)) for o, width in zip(bare, plan.widths)]
    plan = replace(plan, loss=float(sum(o.losses[pick] for o, pick in zip(bare, picks))))
    if goal.max_drop is not None and plan.loss * curves.baseline > goal.max_drop:
        possible = solve_drop(bare, groups.macs, goal.max_drop / curves.baseline)
        part = 1 - groups.macs(possible.widths) / groups.macs(groups.widths)
        raise GoalNotMet(
            f"The predicted drop of {curves.metric} is {plan.loss * curves.baseline:.4f}, above {goal.max_drop}.",
            f"Within that drop {100 * part:.1f} % of the FLOPs can go before retraining.",
        )
    return plan


def prune_to(groups: ChannelGroups, curves: Curves, importance: Mapping[str, np.ndarray], goal: Goal) -> Pruned:
    """Prune a copy of the model so that FLOPs, parameters and predicted drop are what ``goal`` says.

    Costs of the result are counted anew. Where channels of one group differ in cost (entangled layers) the polynomial
    is an average, and the solver is asked again for what is missing. Groups without importance stay as they are.

    Raises:
        GoalNotMet: it cannot be reached; the message says what can.
        UserError: a regular expression matches nothing.
    """
    if goal.flops_removed is None and goal.params is None and goal.max_drop is None:
        raise UserError("No goal is given.", "Give --pruning_ratio, --target-params, --target-latency or --max-drop.")
    curves = replace(curves, groups={name: curve for name, curve in curves.groups.items() if name in importance})
    before = (groups.macs(groups.widths), groups.parameters(groups.widths))
    tighter = _AS_ASKED
    for number in range(_ROUNDS):
        plan = _solve(groups, curves, goal, tighter)
        kept = channels_to_keep(groups, importance, plan.widths)
        model = cut(groups, kept, **_settings(goal, curves))
        now = find_groups(model, groups.size, groups.pick)
        after = (now.macs(now.widths), now.parameters(now.widths))
        over = {"FLOPs": 0.0, "Parameters": 0.0}
        if goal.flops_removed is not None:
            over["FLOPs"] = after[0] / (before[0] * (1 - goal.flops_removed)) - 1
        if goal.params is not None:
            over["Parameters"] = after[1] / goal.params - 1
        if max(over.values()) <= 1e-6:
            changed = {n: (groups.by_name[n].width, len(k)) for n, k in kept.items()}
            told = _account(groups, curves, goal, changed)
            drop = plan.loss * curves.baseline
            return Pruned(model, changed, _pair(before[0], after[0]), _pair(before[1], after[1]), plan.loss, told, drop)
        # each round asks for more than is missing: the plan changes, and what entangled channels cost with it
        more = {name: (1 + 0.25 * number) * part + 1e-4 if part > 1e-6 else 0.0 for name, part in over.items()}
        tighter = {name: tighter[name] / (1 + part) for name, part in more.items()}
    worst = max(over, key=lambda name: over[name])
    raise GoalNotMet(
        f"After {_ROUNDS} rounds {100 * over[worst]:.3f} % more {worst} remain than asked for.",
        "Ask for a little less.",
    )


def _account(groups: ChannelGroups, curves: Curves, goal: Goal, changed: Mapping[str, tuple[int, int]]) -> Account:
    allowed = widths_for(groups, goal, curves.groups)
    asked = not is_met(groups, replace(goal, latency_ms=None))
    return account(groups, changed, allowed, _kept(groups, goal), curves.groups, goal.align, asked)


def _pair(before: float, after: float) -> tuple[int, int]:
    return round(before), round(after)


def _settings(goal: Goal, curves: Curves) -> dict[str, object]:
    asked = {k: v for k, v in vars(goal).items() if v not in (None, ())}
    return {"goal": {k: list(v) if isinstance(v, tuple) else v for k, v in asked.items()}, "sensitivity": curves.mode}


def prune_to_latency(
    groups: ChannelGroups,
    curves: Curves,
    importance: Mapping[str, np.ndarray],
    goal: Goal,
    measure: Callable[[Sequence[GraphLayer]], list[float]],
    log: Callable[[str], None] = lambda line: None,
    rounds: int = 8,
) -> tuple[Pruned, float]:
    """Prune to a latency: the model time = a + b * FLOPs is fitted to what was measured, and every step is measured.

    Args:
        groups, curves, importance: as for `prune_to`.
        goal: ``latency_ms`` is the limit; a ``flops_removed`` in it is a lower bound.
        measure: median milliseconds of models, measured side by side on the engine. A pruned model's time is taken
            relative to the unpruned one beside it; one within the limit is measured again, and the longer time counts.
        log: takes a line a step.
        rounds: most models that are built and measured.

    Returns:
        the largest model found within the limit, and its time in ms.

    Raises:
        GoalNotMet: no model measured is fast enough; the message says what was reached.
    """
    limit = goal.latency_ms
    assert limit is not None
    (whole,) = measure([groups.model])
    log(f"unpruned: {whole:.2f} ms")
    points, best = [(1.0, whole)], None
    tried: dict[tuple[object, ...], float] = {}  # a plan that was too slow is not measured until it is fast by chance
    low, high = goal.flops_removed or 0.0, 1.0
    removed, aim = max(low, min(0.95, 1 - limit / whole)), 0.985 * limit
    for _ in range(rounds):
        try:
            pruned = prune_to(groups, curves, importance, _with_ratio(goal, removed))
        except GoalNotMet:
            high, removed = removed, 0.5 * (low + removed)
            continue
        plan = tuple(pruned.widths.items())
        if plan not in tried:
            tried[plan] = 0.0
            for _ in range(2):
                beside, own = measure([groups.model, pruned.model])  # side by side: another load moves both
                tried[plan] = max(tried[plan], whole * own / beside)
                if tried[plan] > limit:
                    break
        time = tried[plan]
        points.append((1 - pruned.flops_removed, time))
        log(f"{100 * pruned.flops_removed:.1f} % of the FLOPs removed: {time:.2f} ms")
        if time <= limit:
            best, high = (pruned, time), min(high, removed)
            if time >= 0.97 * limit or removed <= low:  # as wide as is allowed
                break
        else:
            low, aim = max(low, removed), _FURTHER * aim
        slope, offset = _line(points)
        guess = 1 - (aim - offset) / slope if slope > 0 else 0.5 * (low + high)
        removed = float(guess) if low < guess < high else 0.5 * (low + high)
    if best is None:
        fastest = min(time for _, time in points)
        raise GoalNotMet(
            f"{limit:g} ms was not reached: the fastest model measured takes {fastest:.3f} ms.",
            "Ask for a longer time, protect fewer layers, or lower --align.",
        )
    return best


def _line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Slope and offset of the line through points, by least squares; a slope of 0 where all have one place."""
    x, y = np.array(points).T
    if np.ptp(x) < 1e-6:
        return 0.0, float(y.mean())
    slope, offset = np.polyfit(x, y, 1)
    return float(slope), float(offset)


def _with_ratio(goal: Goal, removed: float) -> Goal:
    return Goal(removed, goal.params, goal.max_drop, goal.latency_ms, goal.align, goal.keep, goal.limits)
