"""Put the stages that several commands left behind into one report: one row a model, one name a row."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from paddleseg_slim.report.stage import Stage


def joined(found: Mapping[Path, Stage]) -> dict[Path, Stage]:
    """The stages by folder, joined to chains.

    What a command says of the model that it was given is left to the command that made it, where that is here as
    well: both have the same size, the same cost and the same accuracy on the same images. So the chain goes on from
    one command to the next. Stages of different models that have one name get that of their command's folder in front,
    unless a third command speaks of them: which one it means is not known.
    """
    stages = {folder: _Own(stage, _command_of(folder, found)) for folder, stage in found.items()}
    places = list(stages)
    for folder, own in list(stages.items()):
        earlier = places[: places.index(folder)]
        twin = next(
            (
                other
                for place, other in stages.items()
                if _goes_on(own, other) and (other.stage.base is not None or place in earlier)
            ),
            None,
        )
        if twin is not None:
            del stages[folder]
            _rename(stages, own.command, own.stage.name, twin.stage.name)
            known = {_setup(row) for row in twin.stage.latency}
            more = tuple(row for row in own.stage.latency if _setup(row) not in known)
            twin.stage = replace(twin.stage, latency=twin.stage.latency + more)
    here = {(own.command, own.stage.name) for own in stages.values()}
    meant = {
        own.stage.base for own in stages.values() if (own.command, own.stage.base) not in here
    }  # of other commands
    names = [own.stage.name for own in stages.values()]
    for own in stages.values():
        name = own.stage.name
        if names.count(name) > 1 and name not in meant:
            new = f"{own.command.name}.{name}"
            own.stage = replace(own.stage, name=new)
            _rename(stages, own.command, name, new)
    return {folder: own.stage for folder, own in stages.items()}


class _Own:
    """A stage and the folder of the command that left it."""

    def __init__(self, stage: Stage, command: Path) -> None:
        self.stage, self.command = stage, command


def _command_of(folder: Path, found: Mapping[Path, Stage]) -> Path:
    """The outermost folder above this one that holds a stage, each folder between them holding one as well."""
    while folder.parent in found:
        folder = folder.parent
    return folder


def _goes_on(own: _Own, other: _Own) -> bool:
    """Whether ``own`` is the model that a command was given, and ``other`` the same, seen by another command."""
    mine, theirs = own.stage, other.stage
    if mine.base is not None or own.command == other.command or not (mine.accuracy and theirs.accuracy):
        return False
    if None in (mine.params, mine.macs) or mine.accuracy.images != theirs.accuracy.images:
        return False
    shared = mine.accuracy.values.keys() & theirs.accuracy.values.keys()
    return (
        (mine.params, mine.macs, mine.input_shape) == (theirs.params, theirs.macs, theirs.input_shape)
        and mine.accuracy.primary in shared
        and all(math.isclose(mine.accuracy.values[n], theirs.accuracy.values[n], abs_tol=1e-6) for n in shared)
    )


def _rename(stages: Mapping[Path, _Own], command: Path, old: str, new: str) -> None:
    """Let the other stages of a command, and its times, speak of a stage by its new name."""
    for own in stages.values():
        if own.command != command:
            continue
        rows = tuple(
            replace(row, stage=new if row.stage == old else row.stage, base=new if row.base == old else row.base)
            for row in own.stage.latency
        )
        own.stage = replace(own.stage, base=new if own.stage.base == old else own.stage.base, latency=rows)


def _setup(row: object) -> tuple[object, ...]:
    return tuple(getattr(row, name) for name in ("engine", "device", "threads", "input_shape", "precision", "stage"))
