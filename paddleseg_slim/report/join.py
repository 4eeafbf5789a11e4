"""Put the stages that several commands left behind into one report: one row a model, one name a row."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from paddleseg_slim.errors import UserError
from paddleseg_slim.report.stage import Accuracy, Latency, Stage


def joined(found: Mapping[Path, Stage]) -> dict[Path, Stage]:
    """The stages by folder, joined to chains.

    What a command says of the model that it was given is left to the command that made it, where that is here as
    well: both have the same size, the same cost and the same accuracy on the same images. So the chain goes on from
    one command to the next. Stages of different models that have one name get that of their command's folder in front.

    Raises:
        UserError: a stage speaks of another one by a name that several have.
    """
    owns = [_Own(folder, stage, _command_of(folder, found)) for folder, stage in found.items()]
    for number, own in enumerate(owns):
        if own.folder != own.command:  # a model given to a command, or one on its way
            made = [other for other in owns if other.folder == other.command]
            own.into = next((o for o in [*made, *owns[:number]] if o.into is None and _goes_on(own, o)), None)
    for own in owns:
        own.refers = {name: _meant(own, name, owns) for name in own.spoken_of()}
    left = [own for own in owns if own.into is None]
    _name(left)
    return {own.folder: _written(own, [o for o in owns if o is not own and o.last is own]) for own in left}


class _Own:
    """A stage in its folder.

    Attributes:
        command: folder of the command that left it.
        refers: the stage, of those left in the end, that a name stands for in this one; None where none is called so.
        into: the stage of the same model that it is left to.
        name: in the report.
    """

    def __init__(self, folder: Path, stage: Stage, command: Path) -> None:
        self.folder, self.stage, self.command, self.name = folder, stage, command, stage.name
        self.refers: dict[str, _Own | None] = {}
        self.into: _Own | None = None

    @property
    def last(self) -> _Own:
        """The stage that speaks for this model in the end."""
        return self if self.into is None else self.into.last

    def spoken_of(self) -> set[str]:
        """Names of stages in this one."""
        names = {name for row in self.stage.latency for name in (row.stage, row.base)} | {self.stage.base or ""}
        return names - {""}

    def called(self, name: str) -> str:
        """What the stage is called in the report that is called ``name`` in this one."""
        meant = self.refers.get(name)
        return name if meant is None else meant.name

    def rows(self) -> Iterator[tuple[tuple[object, ...], Latency]]:
        """Its times with their names in the report, each with what it is a time of."""
        for row in self.stage.latency:
            of = self.called(row.stage) if row.stage else self.last.name
            setup = (row.engine, row.device, row.threads, row.input_shape, row.precision, of)
            yield setup, replace(row, stage=of if row.stage else "", base=self.called(row.base))


def _command_of(folder: Path, found: Mapping[Path, Stage]) -> Path:
    """The outermost folder above this one that the same command left a stage in."""
    above = [parent for parent in folder.parents if parent in found and found[parent].command == found[folder].command]
    return above[-1] if above else folder


def _meant(own: _Own, name: str, owns: Sequence[_Own]) -> _Own | None:
    """The stage that speaks for what ``own`` means by a name: of its command, else the only one, else the nearest.

    Raises:
        UserError: several are as near.
    """
    called = [other for other in owns if other.stage.name == name]
    near = [other for other in called if other.command == own.command] or called
    near = list({id(other.last): other.last for other in near}.values())
    if len(near) > 1:
        shared: Callable[[_Own], int] = lambda other: len(os.path.commonpath([own.folder, other.folder]))  # noqa: E731
        near = [other for other in near if shared(other) == max(map(shared, near))]
    if len(near) > 1:
        folders = ", ".join(str(other.folder) for other in near)
        raise UserError(
            f"Two stages are called {name!r}, and {own.folder} speaks of one of them: {folders}.",
            "Report on the folders that belong together.",
        )
    return near[0] if near else None


def _goes_on(own: _Own, other: _Own) -> bool:
    """Whether ``own`` is the model that a command was given, and ``other`` the same, seen by another command."""
    mine, theirs = own.stage, other.stage
    if mine.base is not None or own.command == other.command or None in (mine.params, mine.macs):
        return False
    cost = (mine.params, mine.macs, mine.input_shape) == (theirs.params, theirs.macs, theirs.input_shape)
    return bool(cost and mine.accuracy and theirs.accuracy and _equal(mine.accuracy, theirs.accuracy))


def _equal(mine: Accuracy, theirs: Accuracy) -> bool:
    """Whether two evaluations gave the same, but for what an engine rounds."""
    if (mine.primary, mine.images, mine.per_class.keys()) != (theirs.primary, theirs.images, theirs.per_class.keys()):
        return False
    pairs = [(mine.values[name], theirs.values[name]) for name in mine.values.keys() & theirs.values.keys()]
    pairs += [(mine.per_class[name] or 0.0, theirs.per_class[name] or 0.0) for name in mine.per_class]
    return all(math.isclose(a, b, abs_tol=1e-6) or (math.isnan(a) and math.isnan(b)) for a, b in pairs)


def _name(left: Sequence[_Own]) -> None:
    """Put as much of the path of its command in front of a name as it takes to tell it from others."""
    for own in left:
        others = [other.command for other in left if other is not own and other.stage.name == own.stage.name]
        if others:
            parts = own.command.parts
            ends = (parts[-count:] for count in range(1, len(parts) + 1))
            end = next((end for end in ends if all(o.parts[-len(end) :] != end for o in others)), parts[-1:])
            own.name = f"{'/'.join(end)}.{own.stage.name}"


def _written(own: _Own, same: Sequence[_Own]) -> Stage:
    """The stage with the names of the report, and the times that others measured of its model."""
    setups = {setup for setup, _ in own.rows()}
    rows = [row for _, row in own.rows()]
    for other in same:
        rows += [row for setup, row in other.rows() if setup not in setups]
        setups.update(setup for setup, _ in other.rows())
    base = own.called(own.stage.base) if own.stage.base else own.stage.base
    return replace(own.stage, name=own.name, base=base, latency=tuple(rows))
