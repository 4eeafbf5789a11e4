"""What was removed of a model and why the rest stays: widths of its channel groups, layers that cannot be pruned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from paddleseg_slim.report.stage import Stage
from paddleseg_slim.report.summary import Summary


@dataclass(frozen=True)
class Removal:
    """One pruning.

    Attributes:
        names: of the stages that hold its result: as cut, and trained again.
        stage: the first of them.
        pictures: file -> caption.
    """

    names: tuple[str, ...]
    stage: Stage
    pictures: dict[Path, str]

    @property
    def changed(self) -> dict[str, tuple[int, int]]:
        """Channels before and after of the groups that lost some."""
        return {name: width for name, width in self.stage.widths.items() if width[1] != width[0]}

    @property
    def sentences(self) -> list[str]:
        """How many channels went and how many groups stayed, by their reasons."""
        widths, untouched = self.stage.widths, self.stage.untouched
        if not widths:
            return ["No channel of this model can be removed."]
        before, after = (sum(width[place] for width in widths.values()) for place in (0, 1))
        part = f" ({(after / before - 1) * 100:+.0f} %)" if after != before else ""
        some = f"{len(self.changed)} of {len(widths)} channel groups lost channels"
        said = [f"{some}: {before:,} before, {after:,} now{part}."]
        if untouched:
            counts = ", ".join(f"{len(names)} ({reason})" for reason, names in by_reason(untouched).items())
            said.append(f"Groups that stayed as they were: {counts}.")
        return said


def removals(summary: Summary) -> list[Removal]:
    """The prunings of a run; stages that tell of the same one are put together."""
    found: list[Removal] = []
    for row in summary.rows:
        stage = row.stage
        if not stage.widths and not stage.pinned:
            continue
        pictures = {(row.folder / name).resolve(): text for name, text in stage.pictures.items()}
        own = Removal((stage.name,), stage, pictures)
        same = next((i for i, other in enumerate(found) if _same(other, own)), None)
        if same is None:
            found.append(own)
        else:
            found[same] = replace(found[same], names=(*found[same].names, stage.name))
    return found


def _same(one: Removal, other: Removal) -> bool:
    facts = [(r.stage.base, r.stage.widths, r.stage.untouched, r.stage.pinned, r.pictures) for r in (one, other)]
    return facts[0] == facts[1]


def lost(width: tuple[int, int]) -> str:
    """The part of a group's channels that went: ``-25 %``."""
    return f"-{100 * (1 - width[1] / width[0]):.0f} %" if width[1] < width[0] else ""


def by_reason(table: Mapping[str, str]) -> dict[str, list[str]]:
    """Reason -> names, the most frequent reason first."""
    found: dict[str, list[str]] = {}
    for name, reason in table.items():
        found.setdefault(reason, []).append(name)
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))
