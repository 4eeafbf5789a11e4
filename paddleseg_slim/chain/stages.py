"""Give the stages of a chain names that are unique in its report, and their base in the chain."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from paddleseg_slim.report.stage import FILE_NAME, Stage, read_stage, write_stage


def stages_of(folder: Path) -> Iterator[tuple[Path, Stage]]:
    """The stages in a step's folder, its own first."""
    for path in sorted(folder.rglob(FILE_NAME), key=lambda path: len(path.parts)):
        yield path.parent, read_stage(path)


def rename(folder: Path, name: str, base: str, start: str, labels: Mapping[str, str] | None = None) -> None:
    """Rename the stages that a command left in ``folder``; a second time changes nothing.

    The command's own stage gets the name of the step. What it says of the model that it was given is left to the
    stage ``base`` if the chain has that already, else it becomes the stage ``start``. Further stages get the step's
    name in front.

    Args:
        folder: of the step.
        name: of the step.
        base: stage of the model that the step was given; empty if no step before has reported it.
        start: name for that stage then.
        labels: further names that a benchmark in the folder uses for stages -> names of these stages.
    """
    found = list(stages_of(folder))
    new = dict(labels or {})
    for place, stage in found:
        if place == folder:
            new[stage.name] = name
        elif stage.base is None or stage.name == start:
            new[stage.name] = base or start
        else:
            new[stage.name] = stage.name if stage.name.startswith(f"{name}.") else f"{name}.{stage.name}"
    for place, stage in found:
        if place != folder and new[stage.name] == base:
            (place / FILE_NAME).unlink()
            continue
        latency = tuple(
            replace(row, stage=new.get(row.stage, row.stage), base=new.get(row.base, row.base)) for row in stage.latency
        )
        known = new.get(stage.base or "", stage.base) or (base if place == folder else None) or None
        own = new[stage.name]
        write_stage(place, replace(stage, name=own, base=None if known == own else known, latency=latency))
