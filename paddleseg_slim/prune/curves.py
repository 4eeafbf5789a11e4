"""Loss against width for every group: kept in ``sensitivities.json``, and read by the budget solver."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from paddleseg_slim.errors import UserError
from paddleseg_slim.files import write_json
from paddleseg_slim.prune.divergence import monotone

FILE_NAME = "sensitivities.json"
FORMAT = "paddleseg_slim.sensitivities"
FORMAT_VERSION = 1
MODES = ("exact", "fast", "refit", "taylor", "ranking")
_AGAIN = "Delete it; it will be computed again."


@dataclass(frozen=True)
class GroupCurve:
    """What was measured of one group.

    Attributes:
        width: channels of the group.
        kept: channels kept at each point.
        losses: at each point, ``(baseline - metric) / baseline``, the relative loss of the metric; may be negative. Of
            the divergence, whose baseline is 1, it is the divergence in nats.
        order: channels from the least to the most important; a point removes the first of them. Empty where a file
            of another tool does not tell it.
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

    def check(self) -> None:
        """Refuse what cannot be a curve.

        Raises:
            ValueError: it says what is wrong.
        """
        if not (isinstance(self.width, int) and self.width > 0):
            raise ValueError(f"the width is {self.width!r}")
        if self.order and sorted(self.order) != list(range(self.width)):
            raise ValueError(f"the order is not one of {self.width} channels")
        if len(self.kept) != len(self.losses):
            raise ValueError(f"{len(self.kept)} widths have {len(self.losses)} losses")
        if not all(isinstance(kept, int) and 0 < kept < self.width for kept in self.kept):
            raise ValueError(f"not all of the widths {self.kept} are below {self.width}")
        if not all(isinstance(loss, (int, float)) and math.isfinite(loss) for loss in self.losses):
            raise ValueError("not all losses are finite numbers")

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
        mode: one of `MODES`.
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
    def read(cls, path: str | os.PathLike[str], remedy: str = _AGAIN) -> Curves:
        """Read a ``sensitivities.json``.

        Args:
            path: of the file.
            remedy: of the errors.

        Raises:
            UserError: it is missing, damaged, or written by another version.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read: {error}.", remedy) from error
        if not isinstance(data, dict) or data.pop("format", None) != FORMAT:
            raise UserError(f"{path} is no sensitivities file of this package.", remedy)
        if data.pop("format_version", None) != FORMAT_VERSION:
            raise UserError(f"{path} was written by another version.", remedy)
        try:
            curves = cls(groups={name: GroupCurve(**curve) for name, curve in data.pop("groups").items()}, **data)
            curves._check_content()
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise UserError(f"{path} is damaged: {error}.", remedy) from error
        return curves

    def _check_content(self) -> None:
        """Refuse what no analysis writes.

        Raises:
            ValueError, TypeError: it says what is wrong.
        """
        if self.mode not in MODES:
            raise ValueError(f"the mode is {self.mode!r}")
        if not (isinstance(self.baseline, (int, float)) and math.isfinite(self.baseline) and self.baseline > 0):
            raise ValueError(f"the baseline is {self.baseline!r}")
        for name, curve in self.groups.items():
            try:
                curve.check()
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None

    def importance(self) -> dict[str, np.ndarray] | None:
        """Scores of every group's channels ``[width]`` that stand for their order; None where a group has none."""
        if not all(curve.order for curve in self.groups.values()):
            return None
        table = {}
        for name, curve in self.groups.items():
            table[name] = np.empty(curve.width)
            table[name][curve.order] = np.arange(curve.width)
        return table

    def made_with(self) -> dict[str, str]:
        """The ``sensitivity`` and ``criterion`` that the fingerprint says they were measured with, if it does."""
        try:
            settings = json.loads(self.fingerprint["settings"])
            return {"sensitivity": str(settings[0]), "criterion": str(settings[1])}
        except (KeyError, IndexError, TypeError, ValueError):
            return {}

    def check(self, fingerprint: Mapping[str, Any], path: str | os.PathLike[str], remedy: str = _AGAIN) -> None:
        """Refuse curves of other weights, data or settings.

        Raises:
            UserError: they are stale; the differing parts are named.
        """
        if not self.fingerprint:
            raise UserError(f"{path} does not tell what it was measured with.", remedy)
        differ = sorted(
            key for key in {*fingerprint, *self.fingerprint} if fingerprint.get(key) != self.fingerprint.get(key)
        )
        if differ:
            raise UserError(f"{path} was measured with other {', '.join(differ)}.", remedy)

    def check_groups(self, widths: Mapping[str, int], path: str | os.PathLike[str], remedy: str = _AGAIN) -> None:
        """Refuse curves of groups that the model does not have.

        Args:
            widths: of the model's groups.
            path: what was read.
            remedy: of the error.

        Raises:
            UserError: one has another name or width.
        """
        for name, curve in self.groups.items():
            if widths.get(name) != curve.width:
                there = f"has {widths[name]}" if name in widths else "has no such group"
                raise UserError(f"{path} has {curve.width} channels of {name}, the model {there}.", remedy)


def table(curves: Curves) -> Sequence[tuple[str, GroupCurve]]:
    """Groups from the least to the most sensitive at half their channels."""
    return sorted(curves.groups.items(), key=lambda item: float(item[1].loss_at(np.array([item[1].width / 2]))[0]))
