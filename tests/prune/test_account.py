"""What pruning says of every group and layer."""

from __future__ import annotations

from typing import Any

import paddle
from paddle import nn
from prune.matrix import captured

from paddleseg_slim.prune import account
from paddleseg_slim.prune.channels import find_groups
from paddleseg_slim.prune.plan import Goal, prune_to
from paddleseg_slim.prune.ranking import ranking_curves, scores


def test_every_group_and_every_layer_has_its_line(case: Any) -> None:
    groups = case[0]
    pruned = prune_to(*case, Goal(flops_removed=0.3))
    told = pruned.account
    assert list(told.widths) == [group.name for group in groups.groups]
    assert {name: width for name, width in told.widths.items() if width[0] != width[1]} == pruned.widths
    assert set(told.untouched) == set(told.widths) - set(pruned.widths)
    assert told.pinned == dict.fromkeys(("classifier.conv", "auxlayer.conv"), "they are the network's output")
    told_of = {layer for name in told.widths for layer in groups.by_name[name].layers} | set(told.pinned)
    assert told_of >= {layer.node for layer in groups.layers()}
    after = find_groups(pruned.model, 64)
    assert [after.by_name[name].width for name in told.widths] == [width[1] for width in told.widths.values()]


def test_reasons(case: Any) -> None:
    groups, curves, importance = case
    names = [group.name for group in groups.groups if group.width >= 64][:3]
    unknown, kept, limited = names
    judged = {name: values for name, values in importance.items() if name != unknown}
    goal = Goal(flops_removed=0.05, keep=(f"^{kept}$",), limits=((f"^{limited}$", 0.05),), align=32)
    told = prune_to(groups, curves, judged, goal).account
    assert told.untouched[unknown] == account.NOT_JUDGED
    assert told.untouched[kept] == account.KEPT
    assert told.untouched[limited] == "no smaller multiple of 32 is allowed"
    assert account.CHEAPER in told.untouched.values()


def test_a_ratio_of_zero_leaves_every_group(case: Any) -> None:
    told = prune_to(*case, Goal(flops_removed=0.0)).account
    assert set(told.untouched) == set(told.widths)
    assert set(told.untouched.values()) == {account.NOT_NEEDED, account.NO_GAIN}
    assert told.untouched["auxlayer.conv_bn_relu._conv"] == account.NO_GAIN
    assert all(before == after for before, after in told.widths.values())


class Halves(nn.Layer):
    """A convolution whose last three channels are added to the output."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2D(3, 8, 3, padding=1), nn.Conv2D(5, 3, 1)

    def forward(self, x: Any) -> Any:
        y = self.first(x)
        return self.last(y[:, :5]) + y[:, 5:]


def test_a_layer_of_which_a_part_is_pinned_says_how_much() -> None:
    paddle.seed(0)
    groups = find_groups(captured(Halves()), 32)
    importance = scores(groups, "l1_norm")
    curves = ranking_curves(groups, importance, "l1_norm")
    told = prune_to(groups, curves, importance, Goal(flops_removed=0.1, align=1)).account
    assert list(told.widths) == ["first"] and told.widths["first"][0] == 5
    assert told.pinned == {
        "first": "3 of 8 channels: they are the network's output", "last": "they are the network's output"
    }  # fmt: skip
