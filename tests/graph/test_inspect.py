"""`paddleseg-slim inspect`, started as users start it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from graph_nets import DETECTORS, SPEC, TINY, TinySeg, seeded
from paddle.static import InputSpec
from quant_nets import SHAPE, images, small_model
from tiny import write_config

from paddleseg_slim.cli.history import lines
from paddleseg_slim.cli.main import main
from paddleseg_slim.deploy.description import Deploy, write_deploy
from paddleseg_slim.graph import GraphLayer, PaddleExecutor, capture, cost, save
from paddleseg_slim.graph.picture import svg
from paddleseg_slim.models import zoo
from paddleseg_slim.prune.channels import find_groups
from paddleseg_slim.prune.plan import Goal, prune_to
from paddleseg_slim.prune.ranking import ranking_curves, scores
from paddleseg_slim.quant.ptq import QuantSettings, post_quantize

COMMAND = [sys.executable, "-c", "import sys; from paddleseg_slim.cli.main import main; sys.exit(main(sys.argv[1:]))"]


def test_a_table_a_picture_and_numbers(tmp_path: Path) -> None:
    picture, numbers = tmp_path / "graph.svg", tmp_path / "graph.json"
    options = ["--input_shape", "64", "96", "--svg", str(picture), "--json", str(numbers)]
    result = subprocess.run(
        [*COMMAND, "inspect", "pp_humanseg_lite", *options], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "GMACs" in result.stdout and "conv2d" in result.stdout
    data = json.loads(numbers.read_text())
    assert data["size"] == [64, 96] and "GMACs at 64x96" in result.stdout
    assert data["macs"] == sum(node["macs"] for node in data["nodes"]) > 0
    root = ElementTree.parse(picture).getroot()
    texts = " ".join("".join(element.itertext()) for element in root.iter())
    assert all(node["op"] in texts for node in data["nodes"] if node["op"] in ("conv2d", "concat", "bilinear_interp"))


def test_costs_without_auxiliary_heads_are_those_of_the_exported_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "fast_scnn", "--input_shape", "64", "64"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    total, first = re.findall(r"([\d.]+) GMACs at 64x64, ([\d.]+) M parameters", said)
    layer = capture(zoo.build("fast_scnn", 19), SPEC, verify=False, fixed_size=(64, 64))
    head = sum(v.size for n, v in layer.tensors() if n.startswith("auxlayer.")) / 1e6
    assert head > 0.01 and float(total[1]) - float(first[1]) == pytest.approx(head, abs=0.0011)
    assert float(first[0]) < float(total[0])


def test_no_model_is_an_error_of_the_user(tmp_path: Path) -> None:
    result = subprocess.run([*COMMAND, "inspect", str(tmp_path)], capture_output=True, text=True, check=False)
    assert result.returncode == 2 and "holds no model" in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize("factory", [*TINY.values(), *DETECTORS.values()])
def test_boxes_of_a_picture_do_not_overlap_and_every_node_is_drawn(factory: Any) -> None:
    layer = capture(seeded(factory), SPEC, verify=False)
    for graph in layer.graphs:
        costs = cost(graph, [(1, 3, 64, 96)])
        root = ElementTree.fromstring(svg(graph, costs))
        boxes = [
            tuple(float(rect.get(key)) for key in ("x", "y", "width", "height"))
            for rect in root.iter("{http://www.w3.org/2000/svg}rect")
            if rect.get("rx")  # the background has square corners
        ]
        for index, (x, y, width, height) in enumerate(boxes):
            for left, top, other_width, other_height in boxes[:index]:
                beside = x >= left + other_width or left >= x + width
                assert beside or y >= top + other_height or top >= y + height
        titles = ", ".join(element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}title")).split(", ")
        assert {node.name for node in graph.nodes if node.op in ("conv2d", "pool2d", "batch_norm")} <= set(titles)
        assert graph.inputs[0].name in " ".join(titles)


def told_size(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """What both commands say; they must agree."""
    found = []
    for verb in ("inspect", "groups"):
        assert main([verb, *map(str, words)]) == 0
        said = " ".join(capsys.readouterr().out.split())
        match = re.search(r"[\d.]+ GMACs at (\d+x\d+), ", said)
        assert match is not None, said
        found.append(match[1])
    assert found[0] == found[1]
    return found[0]


def test_costs_are_counted_at_the_size_of_the_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert told_size(capsys, "fast_scnn") == "512x512"
    config = write_config(tmp_path, export={"input_shape": [None, 3, 64, 96]})
    assert told_size(capsys, "--config", config) == "64x96"
    assert told_size(capsys, "--config", config, "--input_shape", 32, 32) == "32x32"
    assert told_size(capsys, "--config", write_config(tmp_path)) == "512x512"


def test_costs_are_counted_at_the_size_of_the_saved_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = save(capture(seeded(TinySeg), SPEC, verify=False), tmp_path / "graph")
    assert told_size(capsys, graph) == "512x512"
    write_deploy(tmp_path, Deploy(input_shape=[-1, 3, 64, 96]))
    for name in (graph, graph / "graph.json"):
        assert told_size(capsys, name) == "64x96"
    assert told_size(capsys, graph, "--input_shape", 32, 64) == "32x64"
    spec = [InputSpec([1, 3, 48, 32], "float32", "x")]
    fixed = save(capture(seeded(TinySeg), spec, verify=False), tmp_path / "fixed")
    assert told_size(capsys, fixed) == told_size(capsys, fixed, "--input_shape", 48, 32) == "48x32"
    assert main(["inspect", str(fixed), "--input_shape", "32", "64"]) == 2
    assert "--input_shape is 32 64, the model takes 48x32 only." in capsys.readouterr().err
    assert main(["groups", str(graph), "--input_shape", "0", "64"]) == 2
    assert "--input_shape is 0 64." in capsys.readouterr().err


def pruned() -> GraphLayer:
    layer = capture(zoo.build("fast_scnn", 3), SPEC, verify=False)
    groups = find_groups(layer, 64)
    importance = scores(groups, "l1_norm")
    curves = ranking_curves(groups, importance, "l1_norm")
    return prune_to(groups, curves, importance, Goal(flops_removed=0.3)).model


def test_what_was_done_to_a_model_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every kind of entry that a command writes, and those of other programs."""
    layer = pruned()
    kept = layer.record[0]["kept"]
    smaller = sum(len(tensor.shape) == 4 for name, tensor in layer.tensors() if name in kept)
    layer.record[0]["reconstruction"] = {"images": 8, "layers": 5}
    layer.record += [
        {"step": "sparsify", "method": "2:4", "zeros": 0.4967},
        {"step": "distill", "losses": ["KDLoss", "CWDLoss"], "teacher": "big.pdparams", "iters": 1000},
        {"pass": "train", "steps": 1, "nets": [1, 2]},
        {"nets": [1, 2]},
    ]
    assert main(["inspect", str(save(layer, tmp_path / "graph"))]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert 10 < smaller < 47
    for line in (
        f"pruned (asked: 30 % fewer FLOPs): {smaller} of 47 convolutions are smaller, 5 layers were refitted.",
        "made sparse by 2:4: 49.7 % of the weights are zero.",
        "distilled: 1000 steps with KDLoss, CWDLoss, teacher big.pdparams.",
        "pass: train, steps: 1.",
        "a step without a name.",
    ):
        assert f"Done to it: {line}" in said
    quantized, calibration = post_quantize(small_model(), [images(4)], QuantSettings(), PaddleExecutor(), SHAPE)
    (line,) = lines(quantized)
    assert line.startswith(f"quantized without training for the target {QuantSettings().target}: ")
    assert f"{len(calibration.placement.layers)} layers with " in line and line.endswith(" stay float")
    quantized.record = [{"pass": str(number)} for number in range(20)]
    assert lines(quantized)[::8] == ["12 earlier steps", "pass: 19"]
