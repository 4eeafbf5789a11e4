"""Loss against width for every group: kept in ``sensitivities.json``, drawn, and read by the budget solver."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from paddleseg_slim.errors import UserError
from paddleseg_slim.files import atomic_file, write_json
from paddleseg_slim.prune.divergence import monotone

FILE_NAME = "sensitivities.json"
FORMAT = "paddleseg_slim.sensitivities"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class GroupCurve:
    """What was measured of one group.

    Attributes:
        width: channels of the group.
        kept: channels kept at each point.
        losses: relative loss of the metric at each point, ``(baseline - metric) / baseline``; may be negative.
        order: channels from the least to the most important; a point removes the first of them.
    """

    width: int
    kept: list[int]
    losses: list[float]
    order: list[int]

    def fitted(self) -> tuple[np.ndarray, np.ndarray]:
        """Monotone fit of the points: kept channels ascending (the untouched width last) and losses not increasing.

        Cut off at 0: a metric that rises is noise.
        """
        sort = np.argsort(self.kept)[::-1]
        kept = np.concatenate(([self.width], np.array(self.kept, dtype=np.int64)[sort]))
        losses = np.concatenate(([0.0], np.array(self.losses, dtype=np.float64)[sort]))
        levels, sizes = monotone(losses)
        fit = np.repeat(levels, sizes)
        kept, first = np.unique(kept[::-1], return_index=True)
        return kept, np.maximum(fit[::-1][first] - fit[0], 0.0)

    def loss_at(self, widths: np.ndarray) -> np.ndarray:
        """Predicted loss of any widths: linear between the points, and on beyond the last one."""
        kept, losses = self.fitted()
        result = np.interp(widths, kept, losses)
        if len(kept) > 1 and kept[0] > 0:
            slope = max((losses[0] - losses[1]) / (kept[1] - kept[0]), 0.0)
            result = np.where(widths < kept[0], losses[0] + slope * (kept[0] - widths), result)
        return result


@dataclass(frozen=True)
class Curves:
    """The curves of a model.

    Attributes:
        mode: ``exact``, ``fast``, ``refit``, ``taylor`` or ``ranking``.
        metric: what the losses are of: ``mIoU``, ``divergence``, ``taylor``.
        baseline: the metric of the untouched model.
        images: how many images the points were measured on.
        groups: group name -> its curve.
        fingerprint: what they are valid for: ``weights``, ``data``, ``settings``.
    """

    mode: str
    metric: str
    baseline: float
    images: int
    groups: dict[str, GroupCurve]
    fingerprint: dict[str, Any] = field(default_factory=dict)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write them as readable JSON."""
        write_json(path, {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(self)})

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Curves:
        """Read a ``sensitivities.json``.

        Raises:
            UserError: it is missing, damaged, or written by a newer version.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read: {error}", "Delete it; it will be computed again.") from error
        if not isinstance(data, dict) or data.pop("format", None) != FORMAT:
            raise UserError(f"{path} is no sensitivities file of this package.", "Give another --save_dir.")
        if data.pop("format_version", None) != FORMAT_VERSION:
            raise UserError(f"{path} was written by another version.", "Delete it; it will be computed again.")
        try:
            groups = {name: GroupCurve(**curve) for name, curve in data.pop("groups").items()}
            return cls(groups=groups, **data)
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is damaged: {error}", "Delete it; it will be computed again.") from error

    def made_with(self) -> dict[str, str]:
        """The ``sensitivity`` and ``criterion`` that the fingerprint says they were measured with, if it does."""
        try:
            settings = json.loads(self.fingerprint["settings"])
            return {"sensitivity": str(settings[0]), "criterion": str(settings[1])}
        except (KeyError, IndexError, TypeError, ValueError):
            return {}

    def check(self, fingerprint: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
        """Refuse curves of other weights, data or settings.

        Raises:
            UserError: they are stale; the differing parts are named.
        """
        differ = sorted(
            key for key in {*fingerprint, *self.fingerprint} if fingerprint.get(key) != self.fingerprint.get(key)
        )
        if differ:
            raise UserError(
                f"{path} was measured with other {', '.join(differ)}.",
                "Delete it to measure again, or give another --save_dir.",
            )


def draw(curves: Curves, path: str | os.PathLike[str], columns: int = 4) -> None:
    """Draw all curves, the most sensitive group first, as a picture of small multiples."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = sorted(curves.groups, key=lambda n: -max(curves.groups[n].losses, default=0.0))
    rows = max(1, -(-len(names) // columns))
    figure = Figure(figsize=(3.0 * columns, 1.9 * rows + 0.6), layout="constrained")
    top = max((max(c.losses, default=0.0) for c in curves.groups.values()), default=1.0) or 1.0
    for number, name in enumerate(names):
        curve, axes = curves.groups[name], figure.add_subplot(rows, columns, number + 1)
        kept, losses = curve.fitted()
        axes.plot(100 * (1 - np.array(curve.kept) / curve.width), 100 * np.array(curve.losses), ".", color="0.45")
        axes.plot(100 * (1 - kept / curve.width), 100 * losses, color="#0072B2")
        axes.set_title(f"{name[-34:]} ({curve.width})", fontsize=7)
        axes.set_ylim(-2, 105 * min(top, 1.0) if top <= 1 else 105 * top)
        axes.set_xlim(0, 100)
        axes.tick_params(labelsize=6)
    figure.supxlabel("channels removed (%)", fontsize=8)
    figure.supylabel(f"relative loss of {curves.metric} (%)", fontsize=8)
    FigureCanvasAgg(figure)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def table(curves: Curves) -> Sequence[tuple[str, GroupCurve]]:
    """Groups from the least to the most sensitive at half their channels."""
    return sorted(curves.groups.items(), key=lambda item: float(item[1].loss_at(np.array([item[1].width / 2]))[0]))
