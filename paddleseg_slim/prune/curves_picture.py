"""The curves as a picture of small panels, one a group, all on one logarithmic scale.

Losses of groups differ by orders of magnitude. A logarithmic scale that all panels share shows the flat ones and lets
them be compared; what is far below the largest loss lies on the lowest line.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from paddleseg_slim.files import atomic_file
from paddleseg_slim.prune.curves import Curves, GroupCurve

MOST = 150
"""Panels of a picture; of more groups the most sensitive ones."""

DECADES = 4
"""Height of the scale, in powers of ten below the largest loss."""

_LINE = 40
"""Characters of a line of a panel's title."""

_BLUE, _ORANGE = "#1f5f99", "#d9730d"
_WIDTH, _LEFT, _BOTTOM, _TOP, _RIGHT = 12.0, 0.75, 0.5, 1.0, 0.1  # inches
_BETWEEN, _TITLE = 0.12, 0.5


def quantity(curves: Curves) -> str:
    """What the losses are, with their unit."""
    if curves.metric == "divergence":
        return "mean KL divergence of the predictions (nats)"
    if curves.mode == "taylor":
        return "predicted rise of the cross entropy (nats)"
    if curves.mode == "ranking":
        return f"importance of the channels removed ({curves.metric})"
    return f"relative loss of {curves.metric} (%)"


def caption(curves: Curves) -> str:
    """A sentence that explains the picture."""
    seen = f", on {curves.images} images" if curves.images else ""
    return (
        f"What it costs to remove channels of one group alone: {quantity(curves)}{seen}. The most sensitive group is "
        "the first, and all panels have one logarithmic scale. Orange: the part that was removed."
    )


def draw(curves: Curves, path: str | os.PathLike[str], widths: Mapping[str, tuple[int, int]] | None = None) -> None:
    """Draw the curves, the most sensitive group first.

    Args:
        curves: to draw.
        path: of the PNG.
        widths: group -> channels before and after, where the model is pruned already: marked.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = sorted(curves.groups, key=lambda name: -_most(curves.groups[name]))[:MOST]
    columns = 4 if len(names) <= 24 else 6
    rows = max(1, -(-len(names) // columns))
    panel = (_WIDTH - _LEFT - _RIGHT) / columns - _BETWEEN, 1.2 if columns == 4 else 0.75
    height = _TOP + rows * (panel[1] + _TITLE) - _TITLE + _BOTTOM
    figure = Figure(figsize=(_WIDTH, height))
    titles = shortened(names, 2 * _LINE)
    top = _scale(curves) * max([0.0, *map(_most, curves.groups.values())]) or 1.0
    for number, name in enumerate(names):
        row, column = divmod(number, columns)
        x = _LEFT + column * (panel[0] + _BETWEEN)
        y = height - _TOP - row * (panel[1] + _TITLE) - panel[1]
        axes = figure.add_axes((x / _WIDTH, y / height, panel[0] / _WIDTH, panel[1] / height))
        _panel(axes, curves, name, top, (widths or {}).get(name), titles[name], 7.5 if columns == 4 else 5.8)
        axes.tick_params(labelsize=6.5, labelleft=column == 0, labelbottom=number + columns >= len(names))
    figure.text(_LEFT / _WIDTH, 1 - 0.1 / height, _heading(curves, len(names), bool(widths)), va="top", fontsize=9)
    figure.text(0.5, 0.1 / height, "channels removed (%)", ha="center", fontsize=9)
    figure.text(0.1 / _WIDTH, 0.5, quantity(curves), rotation=90, va="center", fontsize=9)
    FigureCanvasAgg(figure)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def _most(curve: GroupCurve) -> float:
    return max(curve.losses, default=0.0)


def _scale(curves: Curves) -> float:
    return 100.0 if quantity(curves).endswith("(%)") else 1.0


def _heading(curves: Curves, shown: int, marked: bool) -> str:
    of_all = "" if shown == len(curves.groups) else f"The {shown} most sensitive of "
    text = (
        f"{of_all}{len(curves.groups)} channel groups, each pruned alone; the most sensitive first; logarithmic scale"
    )
    return text + ("\nThe orange line is where the group was cut to." if marked else "")


def _panel(
    axes: Any, curves: Curves, name: str, top: float, width: tuple[int, int] | None, title: str, size: float
) -> None:
    """Points, their monotone fit, the width that the group was cut to, and both as numbers; the text is so large."""
    curve, floor = curves.groups[name], top / 10**DECADES
    before, after = width or (curve.width, curve.width)
    kept, fit = curve.fitted()
    for left, losses, style in ((kept, fit, "-"), (np.array(curve.kept), curve.losses, ".")):
        values = np.maximum(_scale(curves) * np.array(losses), floor)
        axes.plot(100 * (1 - left / curve.width), values, style, color=_BLUE, linewidth=1.3, markersize=5)
    if after < before:
        axes.axvline(100 * (1 - after / before), color=_ORANGE, linewidth=1.3)
    axes.set_title(_wrapped(title), loc="left", fontsize=size, pad=4 + 1.3 * size)
    channels = f"{before} → {after}" if after < before else f"{before}"
    text = f"{channels} channels, at most {_scale(curves) * _most(curve):.3g}"
    axes.annotate(text, (0, 1), (0, 3), "axes fraction", "offset points", fontsize=size, color="#5b6b77")
    axes.set_yscale("log")
    axes.set_ylim(0.7 * floor, 2 * top)
    axes.set_xlim(0, 100)
    axes.set_xticks((0, 25, 50, 75))
    axes.yaxis.set_major_formatter(lambda value, place: f"{value:g}")
    axes.minorticks_off()
    axes.grid(color="#e3e8ec", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def shortened(names: Sequence[str], length: int) -> dict[str, str]:
    """Names cut in their middle to ``length`` characters; where two became alike, both keep more."""
    result: dict[str, str] = {}
    for size in range(length, max(map(len, names), default=0) + 1):
        texts = {name: _cut(name, size) for name in names if name not in result}
        seen = [*result.values(), *texts.values()]
        result.update({name: text for name, text in texts.items() if seen.count(text) == 1})
    return {name: result.get(name, name) for name in names}


def _cut(name: str, length: int) -> str:
    if len(name) <= length:
        return name
    head = (length - 1) // 2
    return f"{name[:head]}…{name[len(name) - (length - 1 - head) :]}"


def _wrapped(name: str) -> str:
    """The name on two lines if it is longer than one, broken behind the dot that is nearest to its middle."""
    if len(name) <= _LINE:
        return name
    dots = [place + 1 for place, sign in enumerate(name) if sign == "." and len(name) - _LINE <= place + 1 <= _LINE]
    place = min(dots, key=lambda place: abs(2 * place - len(name)), default=-(-len(name) // 2))
    return f"{name[:place]}\n{name[place:]}"
