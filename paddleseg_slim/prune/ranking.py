"""From a model's weights to scores: what a criterion sees of each group, and which channels stay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from paddleseg_slim.prune.channels import ChannelGroups, Group, Member
from paddleseg_slim.prune.criteria import CRITERIA, GroupWeights, keep_best, normalised, ranking_curve, removal_order
from paddleseg_slim.prune.curves import Curves, GroupCurve


def group_weights(
    groups: ChannelGroups,
    group: Group,
    gradients: np.ndarray | None = None,
    seed: int = 0,
    elimination: np.ndarray | None = None,
) -> GroupWeights:
    """Collect what the criteria look at (`criteria.GroupWeights`)."""
    filters, scales = [], []
    for member in group.members:
        is_scale = member.parameter in groups.batch_norm_scales
        if not (member.writes or is_scale):
            continue
        rows = _rows(groups.model.tensor(member.parameter).numpy(), member, group.width)
        if rows is not None and is_scale:
            scales.append(np.abs(rows).mean(axis=1))
        elif rows is not None:
            filters.append(rows)
    return GroupWeights(
        filters, scales, gradients, elimination, np.random.default_rng([seed, len(group.name), group.width])
    )


def _rows(array: np.ndarray, member: Member, width: int) -> np.ndarray | None:
    """Weights ``[width, ...]`` of a member by channel; None where its channels stand on it unequally often."""
    counts = np.bincount(member.channels[member.channels >= 0], minlength=width)
    if counts.min() != counts.max() or not counts.min():
        return None
    order = np.argsort(member.channels, kind="stable")[(member.channels < 0).sum() :]
    rows = np.moveaxis(array, member.axis, 0)[order]
    return rows.reshape(width, -1)


def scores(
    groups: ChannelGroups,
    criterion: str,
    gradients: Mapping[str, np.ndarray] | None = None,
    seed: int = 0,
    elimination: Mapping[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Importance of every channel, for the groups that the criterion can judge.

    Args:
        groups: of the model.
        criterion: registered name.
        gradients: group -> ``[images, width]`` (`taylor.gate_gradients`), for the criteria that need them.
        seed: of ``random``.
        elimination: group -> ``[width]`` (`elimination.eliminations`), for the criterion that needs it.

    Raises:
        UserError: no criterion has this name.
    """
    judge = CRITERIA.get(criterion)
    result = {}
    for group in groups.groups:
        own = gradients[group.name] if gradients is not None else None
        score = judge(group_weights(groups, group, own, seed, (elimination or {}).get(group.name)))
        if score is not None:
            result[group.name] = np.asarray(score, dtype=np.float64)
    return result


def ranking_curves(
    groups: ChannelGroups,
    importance: Mapping[str, np.ndarray],
    criterion: str,
    fingerprint: Mapping[str, Any] | None = None,
) -> Curves:
    """Curves of a global ranking: every group's scores divided by their mean, removed from the lowest on.

    Args:
        groups: of the model.
        importance: group -> scores.
        criterion: that they are of; some are on one scale already.
        fingerprint: what the result is valid for.
    """
    table = {}
    for name, values in importance.items():
        same_scale = values if criterion in ("opt_slim", "obs") else normalised(values)
        curve = ranking_curve(same_scale)
        kept = list(range(len(values) - 1, 0, -1))
        order = removal_order(values).tolist()
        table[name] = GroupCurve(len(values), kept, [float(curve[k]) for k in kept], order)
    return Curves("ranking", criterion, 1.0, 0, table, dict(fingerprint or {}))


def channels_to_keep(
    groups: ChannelGroups, importance: Mapping[str, np.ndarray], widths: np.ndarray
) -> dict[str, np.ndarray]:
    """The most important channels of each group that does not stay as it is.

    Args:
        groups: of the model.
        importance: group -> scores.
        widths: channels to keep, in the order of ``groups.groups``.
    """
    return {
        group.name: keep_best(importance[group.name], int(width))
        for group, width in zip(groups.groups, widths)
        if width < group.width
    }
