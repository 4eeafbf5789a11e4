from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from report.runs import make_run
from rich.console import Console

from paddleseg_slim.errors import UserError
from paddleseg_slim.report import Accuracy, Latency, Stage, find_stages, markdown
from paddleseg_slim.report.headline import Headline
from paddleseg_slim.report.summary import Setup, duration, human, model_size, summarize, warnings
from paddleseg_slim.report.tables import cells, class_rows, columns, markdown_table, stage_tables

SHAPE = (1, 3, 8, 8)


def stage(name: str, base: str | None = None, score: float | None = None, **more) -> tuple[Path, Stage]:
    accuracy = None if score is None else Accuracy("mIoU", {"mIoU": score}, images=10)
    return Path("."), Stage(name, "train" if base is None else "prune", "x", accuracy, base=base, **more)


def test_the_table_of_a_run(tmp_path):
    summary = summarize(find_stages([make_run(tmp_path)]))
    assert [row.stage.name for row in summary.rows] == ["dense", "pruned", "int8"]  # the benchmark has no row
    onnx, openvino = summary.setups
    assert (onnx.engine, openvino.engine) == ("onnxruntime", "openvino")
    int8 = summary.last
    assert int8.drop == pytest.approx(0.81)
    assert int8.speeds[onnx].ratio == pytest.approx(5.61 / 2.95)
    assert int8.speeds[openvino].verdict.startswith("no difference")
    assert columns(summary)[:5] == ["stage", "mIoU", "params", "MACs", "model file"]
    assert cells(int8, summary)[:5] == [
        ("int8", "quant of pruned"),
        ("0.6731", "-0.81 points"),
        ("702 k", "-38 %"),
        ("42.3 M", "-31 %"),
        ("791 kB", "ONNX, -83 %"),
    ]
    assert warnings(summary) == ["int8: no speed-up against dense (OpenVINO, 2 threads, 1x3x128x128)."]


def test_the_headline_compares_the_end_with_the_beginning(tmp_path):
    headline = Headline.of(summarize(find_stages([make_run(tmp_path)])))
    assert headline.sentence == ("dense → int8: 1.90x faster in ONNX Runtime and 5.8x smaller, mIoU 0.8 points lower")
    figures = {name: (value, detail) for name, value, detail in headline.figures}
    assert figures["speed-up"][0] == "1.90x"
    assert figures["mIoU"] == ("0.6731", "was 0.6812, -0.81 points")
    assert figures["MACs"] == ("42.3 M", "was 61.4 M, -31 %")


def test_a_slower_model_is_called_slower():
    slow = Latency("ort", "cpu", 1, SHAPE, 4.0, 4.0, speedup=0.5, ci_low=0.45, ci_high=0.55, base="dense")
    fast = Latency("ort", "cpu", 1, SHAPE, 2.0, 2.0)
    summary = summarize([stage("dense", None, 0.5, latency=(fast,)), stage("small", "dense", 0.5, latency=(slow,))])
    assert Headline.of(summary).sentence == "dense → small: 2.00x slower in ort, the same mIoU"
    assert warnings(summary) == ["small: slower than dense, 0.50x (ort, 1 thread, 1x3x8x8)."]


def test_times_measured_apart_are_not_called_a_speed_up():
    before, after = (Latency("ort", "cpu", 1, SHAPE, ms, ms) for ms in (4.0, 2.0))
    summary = summarize([stage("dense", latency=(before,)), stage("small", "dense", 0.4, latency=(after,))])
    speed = summary.last.speeds[Setup("ort", "cpu", 1, SHAPE)]
    assert speed.verdict == "about 2.00x, measured apart"
    assert "faster" not in Headline.of(summary).sentence
    other = Latency("ort", "cpu", 2, SHAPE, 1.0, 1.0)  # another number of threads: no ratio at all
    summary = summarize([stage("dense", latency=(before,)), stage("small", "dense", latency=(other,))])
    assert summary.last.speeds[Setup("ort", "cpu", 2, SHAPE)].verdict == ""
    assert warnings(summary) == ["small: its accuracy was not measured."]


def test_a_speed_up_against_another_stage_says_so():
    times = (
        Latency("ort", "cpu", 1, SHAPE, 4.0, 4.0),
        Latency("ort", "cpu", 1, SHAPE, 2.0, 2.0, speedup=1.5, ci_low=1.4, ci_high=1.6, base="pruned"),
    )
    summary = summarize(
        [
            stage("dense", None, 0.5, latency=times[:1]),
            stage("pruned", "dense", 0.5),
            stage("q", "pruned", 0.5, latency=times[1:]),
        ]
    )
    assert summary.last.base.name == "dense"
    assert summary.last.speeds[summary.setups[0]].verdict == "1.50x [1.40, 1.60] against pruned"


def test_a_run_of_one_stage_has_no_headline():
    assert Headline.of(summarize([stage("dense", None, 0.5)])) == Headline("", ())


def test_the_interleaved_measurement_wins():
    apart = Latency("ort", "cpu", 1, SHAPE, 9.0, 9.0, stage="small")
    together = Latency(
        "ort", "cpu", 1, SHAPE, 2.0, 2.0, speedup=2.0, ci_low=1.9, ci_high=2.1, base="dense", stage="small"
    )
    for order in ((apart, together), (together, apart)):
        rows = [stage("dense", None, 0.5), stage("small", "dense", 0.5)]
        rows += [(Path("."), Stage(f"bench{i}", "bench", "x", latency=(item,))) for i, item in enumerate(order)]
        summary = summarize(rows)
        assert summary.last.speeds[summary.setups[0]].latency is together


def test_times_of_no_stage_are_told():
    times = tuple(Latency("ort", "cpu", 1, SHAPE, 2.0, 2.0, stage=name) for name in ("dense", "mine", "yours"))
    bench = Path("."), Stage("speed", "bench", "x", latency=times)
    summary = summarize([stage("dense", None, 0.5), bench])
    assert [row.stage.name for row in summary.rows] == ["dense"]
    assert summary.unplaced == ("mine", "yours")
    assert [text.split(":")[0] for text in warnings(summary)] == [
        "The times of mine are left out",
        "The times of yours are left out",
    ]
    assert "The times of mine are left out" in markdown.render(summary, "", "")
    with pytest.raises(UserError, match="only measurements of dense, mine, yours"):
        summarize([bench])


def test_the_size_is_that_of_what_one_would_copy():
    assert model_size({"a/model.onnx": 10, "model.pdparams": 99}) == (10, "ONNX")
    assert model_size({"model.json": 1, "model.pdiparams": 5, "deploy.yaml": 7}) == (6, "Paddle Inference")
    assert model_size({"graph.json": 1, "weights.safetensors": 3}) == (3, "safetensors")
    assert model_size({"m.onnx": 4, "m.onnx.data": 40, "big.onnx": 50}) == (44, "ONNX")
    assert model_size({"benchmark.json": 1, "notes.txt": 2}) == (None, "")


def test_words_for_numbers():
    assert [human(value) for value in (None, 0, 999, 1_234, 61_400_000, 2.5e9)] == [
        "–",
        "0",
        "999",
        "1.23 k",
        "61.4 M",
        "2.5 G",
    ]
    assert human(791_000, "B") == "791 kB"
    assert [duration(value) for value in (0.25, 5, 75.2, 7260)] == ["0.2 s", "5 s", "1 min 15 s", "2 h 1 min"]


def test_an_absent_class_is_a_dash(tmp_path):
    one = Path("."), Stage("dense", "train", "x", Accuracy("mIoU", {"mIoU": 0.5}, {"cat": None, "dog": 0.5}))
    assert class_rows(summarize([one])) == [["class", "dense"], ["cat", "–"], ["dog", "0.5000"]]


def test_markdown_escapes_bars():
    assert markdown_table([["a", "b"], ["x|y", "1\n2"]]) == "| a | b |\n| :-- | --: |\n| x\\|y | 1<br>2 |\n"


def test_class_colours_are_those_of_pascal_voc():
    from paddleseg_slim.report.samples import class_colors

    expected = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128)]
    assert [tuple(color) for color in class_colors(256)[:6].tolist()] == expected
    assert tuple(class_colors(256)[255].tolist()) == (224, 224, 192)
    assert class_colors(256).dtype == np.uint8


def test_overlay_colors_are_clear_first_and_then_those_of_pascal_voc() -> None:
    from paddleseg_slim.report.samples import class_colors, overlay_colors

    colors = overlay_colors(256)
    assert colors[0].tolist() == [0, 0, 0] and colors[1].tolist() == [230, 85, 13]
    assert (colors[11:] == class_colors(256)[11:]).all()
    assert overlay_colors(1).tolist() == [[0, 0, 0]] and len(overlay_colors(4)) == 4
    assert len({tuple(color) for color in colors[:11].tolist()}) == 11


def test_a_narrow_terminal_gets_times_in_a_table_of_their_own(tmp_path):
    summary = summarize(find_stages([make_run(tmp_path)]))
    (whole,) = stage_tables(summary, 500)
    assert [column.header.split("\n")[0] for column in whole.columns] == [h.split(", ")[0] for h in columns(summary)]
    sizes, times = stage_tables(summary, 80)
    assert [column.header for column in sizes.columns] == columns(summary)[:5]
    assert [column.header.split("\n")[0] for column in times.columns] == ["stage", "ONNX Runtime", "OpenVINO"]
    assert whole.row_count == sizes.row_count == times.row_count == 3
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(sizes)
    assert "0.81 points" in console.export_text()
