"""Stages of several commands in one report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from report.runs import SHAPE, accuracy, latency

from paddleseg_slim.errors import UserError
from paddleseg_slim.report import Stage, find_stages, write_stage
from paddleseg_slim.report.summary import summarize

DENSE = Stage("dense", "train", "prune", accuracy(0.68), 1000, 5000, input_shape=SHAPE)
PRUNED = Stage("pruned", "prune", "prune", accuracy(0.67), 500, 2500, base="dense", input_shape=SHAPE)


def prune(folder: Path) -> None:
    write_stage(folder / "dense", DENSE)
    rows = (latency("dense", "onnxruntime", 4.0, 4.0), latency("", "onnxruntime", 2.0, 4.0))
    write_stage(folder, replace(PRUNED, latency=rows))


def quant(folder: Path, given: Stage, score: float = 0.66) -> None:
    """What post_quant leaves: the model it was given, in a folder of its own, and the int8 one."""
    write_stage(folder / "float", replace(given, name="float", kind="train", command="quant", base=None))
    times = {"base": "float", "speedup": 2.0, "ci_low": 1.9, "ci_high": 2.1}
    rows = (latency("dense", "openvino", 3.0, 3.0), latency("", "openvino", 1.5, 3.0))
    rows = (replace(rows[0], stage="float"), replace(rows[1], **times))
    write_stage(folder, Stage("int8", "quant", "quant", accuracy(score), 500, 2500, base="float", latency=rows))


def test_the_model_that_a_command_was_given_is_the_one_another_made(tmp_path: Path) -> None:
    for names in (("a", "b"), ("d", "c")):  # in either order of the folders
        root = tmp_path / names[0]
        prune(root / names[0])
        quant(root / names[1], PRUNED)
        found = find_stages([root])
        assert [stage.name for _, stage in found] == ["dense", "pruned", "int8"]
        int8 = found[2][1]
        assert int8.base == "pruned" and [row.base for row in int8.latency] == ["", "pruned"]
        assert int8.latency[0].stage == "pruned"
        rows = summarize(found).rows
        assert [row.base and row.base.name for row in rows] == [None, "dense", "dense"]
        assert len(rows[1].speeds) == 2  # what was measured of it there and here


def test_two_variants_of_one_model(tmp_path: Path) -> None:
    for name, score in (("hist", 0.66), ("mse", 0.665)):
        quant(tmp_path / name, DENSE, score)
    found = {stage.name: stage for _, stage in find_stages([tmp_path / "hist", tmp_path / "mse"])}
    assert set(found) == {"float", "hist.int8", "mse.int8"}
    assert {stage.base for name, stage in found.items() if name != "float"} == {"float"}


def test_other_models_stay_apart(tmp_path: Path) -> None:
    quant(tmp_path / "one", DENSE)
    quant(tmp_path / "two", replace(DENSE, accuracy=accuracy(0.6)))
    names = {stage.name: stage.base for _, stage in find_stages([tmp_path])}
    assert names == {"one.float": None, "one.int8": "one.float", "two.float": None, "two.int8": "two.float"}


def test_pruned_twice(tmp_path: Path) -> None:
    """Both commands call what they were given and what they made by the same names."""
    prune(tmp_path / "once")
    again = replace(PRUNED, name="dense", kind="train", base=None)
    write_stage(tmp_path / "twice" / "dense", again)
    write_stage(tmp_path / "twice", Stage("pruned", "prune", "prune", accuracy(0.66), 250, 1200, base="dense"))
    quant(tmp_path / "int8", PRUNED)
    names = {stage.name: stage.base for _, stage in find_stages([tmp_path])}
    assert names == {
        "dense": None, "once.pruned": "dense", "twice.pruned": "once.pruned", "int8": "once.pruned"
    }  # fmt: skip


def test_what_a_training_made_stays(tmp_path: Path) -> None:
    """It may stand anywhere in the order, above the others, and beside a benchmark of all."""
    write_stage(tmp_path, replace(DENSE, name="train", command="train", seconds=60.0))
    prune(tmp_path / "a")
    rows = (latency("dense", "openvino", 4.0, 4.0), replace(latency("pruned", "openvino", 2.0, 4.0), base="dense"))
    write_stage(tmp_path / "bench", Stage("bench", "bench", "bench", latency=rows))
    found = find_stages([tmp_path])
    assert {stage.name: stage.base for _, stage in found} == {"train": None, "pruned": "train", "bench": None}
    assert found[0][1].seconds == 60.0
    bench = next(stage for _, stage in found if stage.kind == "bench")
    assert [(row.stage, row.base) for row in bench.latency] == [("train", ""), ("pruned", "train")]
    assert len(summarize(found).rows) == 2


def test_folders_of_one_name(tmp_path: Path) -> None:
    quant(tmp_path / "a" / "int8", DENSE)
    quant(tmp_path / "b" / "int8", DENSE, 0.65)
    assert {stage.name for _, stage in find_stages([tmp_path])} == {"float", "a/int8.int8", "b/int8.int8"}


def test_another_accuracy_of_one_class_is_another_model(tmp_path: Path) -> None:
    quant(tmp_path / "a", DENSE)
    other = accuracy(0.68)
    other.per_class["bag"], other.per_class["top"] = other.per_class["top"], other.per_class["bag"]
    quant(tmp_path / "b", replace(DENSE, accuracy=other))
    assert len(find_stages([tmp_path])) == 4


def test_no_time_is_lost(tmp_path: Path) -> None:
    """A model measured twice alike keeps both times."""
    row = latency("dense", "openvino", 4.0, 4.0)
    write_stage(tmp_path, replace(DENSE, latency=(row, replace(row, median_ms=5.0))))
    assert [row.median_ms for row in find_stages([tmp_path])[0][1].latency] == [4.0, 5.0]


def test_two_of_one_command_are_refused(tmp_path: Path) -> None:
    for name in ("", "one", "two"):
        write_stage(tmp_path / name, replace(DENSE, name="same" if name else "top"))
    with pytest.raises(UserError, match=r"Two stages are called '.*\.same'"):
        find_stages([tmp_path])
