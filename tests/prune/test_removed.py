"""The file of what was removed, from which the stages are told."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from paddleseg_slim.cli import prune_removed, runner
from paddleseg_slim.graph import GraphLayer
from paddleseg_slim.prune.account import Account
from paddleseg_slim.prune.curves import Curves, GroupCurve
from paddleseg_slim.prune.plan import Pruned
from paddleseg_slim.report import Stage, read_stage, write_stage


def test_what_was_removed_is_told_or_the_log_says_that_it_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(runner, "log", lambda message, *values: said.append(message % values))
    assert prune_removed.facts(tmp_path / "pruned") == {} and not said
    curves = Curves("exact", "mIoU", 0.5, 4, {"stem": GroupCurve(32, [16], [0.1], [])})
    told = Account({"stem": (32, 24), "body": (8, 8)}, {"body": "why"}, {"head": "because"})
    pruned = Pruned(GraphLayer.__new__(GraphLayer), {"stem": (32, 24)}, (2, 1), (2, 1), 0.0, told, 0.0)
    prune_removed.write(tmp_path / "pruned", pruned, curves)
    assert (tmp_path / "sensitivities.png").is_file()
    for up in ("", "../"):
        facts = prune_removed.facts(tmp_path / "pruned", up)
        write_stage(tmp_path, Stage("a", "prune", "x", **facts))
        found = read_stage(tmp_path)
        assert (found.widths, found.untouched, found.pinned) == (told.widths, told.untouched, told.pinned)
        assert list(found.pictures) == [f"{up}sensitivities.png"]
    prune_removed.write(tmp_path / "pruned", pruned, replace(curves, mode="ranking"))
    assert prune_removed.facts(tmp_path / "pruned")["pictures"] == {}
    os.truncate(tmp_path / "pruned" / prune_removed.FILE_NAME, 20)
    assert prune_removed.facts(tmp_path / "pruned") == {}
    assert "removed.json is damaged" in said[0]
