"""What pruning did to every channel group, and why the rest of the model stays: for the report."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

from paddleseg_slim.prune.channels import ChannelGroups, LayerReport

KEPT = "--keep asks for it"
NOT_JUDGED = "its sensitivity is not known"
NO_SMALLER = "no smaller multiple of {} is allowed"
NO_GAIN = "it costs nothing that is counted"
NOT_NEEDED = "the goal asks for nothing to go"
TOO_MUCH = "it would lose more than the goal allows"
CHEAPER = "others save more for their loss"


@dataclass(frozen=True)
class Account:
    """Every group has its line, and every layer with channels in no group.

    Attributes:
        widths: group -> channels before and after, of all groups in the order of the model.
        untouched: group that lost nothing -> why.
        pinned: layer with channels in no group -> why they cannot be removed.
    """

    widths: dict[str, tuple[int, int]] = field(default_factory=dict)
    untouched: dict[str, str] = field(default_factory=dict)
    pinned: dict[str, str] = field(default_factory=dict)


def account(
    groups: ChannelGroups,
    changed: Mapping[str, tuple[int, int]],
    allowed: Mapping[str, np.ndarray],
    kept: Collection[str],
    judged: Collection[str],
    align: int,
    asked: bool,
) -> Account:
    """Say what became of the groups.

    Args:
        groups: of the unpruned model.
        changed: group -> channels before and after, of those that lost some.
        allowed: group -> widths that it might have taken.
        kept: groups that were asked to stay.
        judged: groups whose channels were ranked.
        align: reduced widths are multiples of this.
        asked: whether the goal asks for something to go.
    """
    widths, untouched = {}, {}
    slopes = [(cost, cost.slope(groups.widths)) for cost in (groups.macs, groups.parameters)]
    for number, group in enumerate(groups.groups):
        widths[group.name] = changed.get(group.name, (group.width, group.width))
        if group.name in changed:
            continue
        if group.name in kept:
            untouched[group.name] = KEPT
        elif group.name not in judged:
            untouched[group.name] = NOT_JUDGED
        elif len(allowed[group.name]) == 1:
            untouched[group.name] = NO_SMALLER.format(group.step(align))
        elif not any(cost.change(slope, number, -1.0) for cost, slope in slopes):
            untouched[group.name] = NO_GAIN  # an auxiliary head
        else:
            untouched[group.name] = CHEAPER if changed else TOO_MUCH if asked else NOT_NEEDED
    return Account(widths, untouched, {layer.node: _why(layer) for layer in groups.layers() if layer.reason})


def _why(layer: LayerReport) -> str:
    part = "" if not layer.prunable else f"{layer.channels - layer.prunable} of {layer.channels} channels: "
    return part + layer.reason
