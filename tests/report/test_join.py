"""Stages of several commands in one report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from report.runs import SHAPE, accuracy, latency

from paddleseg_slim.report import Stage, find_stages, write_stage
from paddleseg_slim.report.summary import summarize

DENSE = Stage("dense", "train", "x", accuracy(0.68), 1000, 5000, input_shape=SHAPE)
PRUNED = Stage("pruned", "prune", "x", accuracy(0.67), 500, 2500, base="dense", input_shape=SHAPE)


def prune(folder: Path) -> None:
    write_stage(folder / "dense", DENSE)
    rows = (latency("dense", "onnxruntime", 4.0, 4.0), latency("", "onnxruntime", 2.0, 4.0))
    write_stage(folder, replace(PRUNED, latency=rows))


def quant(folder: Path, given: Stage, score: float = 0.66) -> None:
    """What post_quant leaves: the model it was given, in a folder of its own, and the int8 one."""
    write_stage(folder / "float", replace(given, name="float", kind="train", base=None))
    times = {"base": "float", "speedup": 2.0, "ci_low": 1.9, "ci_high": 2.1}
    rows = (latency("dense", "openvino", 3.0, 3.0), latency("", "openvino", 1.5, 3.0))
    rows = (replace(rows[0], stage="float"), replace(rows[1], **times))
    write_stage(folder, Stage("int8", "quant", "x", accuracy(score), 500, 2500, base="float", latency=rows))


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
