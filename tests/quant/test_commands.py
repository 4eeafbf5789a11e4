"""The real commands on a config that trains in a second."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tiny import run, write_config

from paddleseg_slim.deploy.description import read_deploy
from paddleseg_slim.graph import load


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("trained")
    config = write_config(folder, export={"input_shape": [None, 3, 64, 32]})
    done = run("train.py", "--config", config, "--save_dir", folder / "out", "--save_interval", 6)
    assert done.returncode == 0, done.stderr
    return config, folder / "out" / "iter_6" / "model.pdparams"


def check_result(folder: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    assert {
        "model.onnx",
        "model.json",
        "model.pdiparams",
        "deploy.yaml",
        "calibration_table.txt",
        "stage.json",
    } <= names
    stage = json.loads((folder / "stage.json").read_text(encoding="utf-8"))
    assert stage["accuracy"]["source"] == "onnxruntime" and stage["kind"] == "quant"
    assert any("convolutions and linear layers quantized" in note for note in stage["notes"])
    assert load(folder / "graph").record[-1]["step"] == "quantize"
    quantized, before = (read_deploy(place)[0] for place in (folder, folder / "float"))
    assert quantized.input_shape == [-1, 3, 64, 32]  # the config's, whatever the size of the images is
    assert before == replace(quantized, model="", params="")


def test_post_quant(trained: tuple[Path, Path], tmp_path: Path) -> None:
    config, weights = trained
    out = tmp_path / "quant_model"
    arguments = (
        "--config",
        config,
        "--model_path",
        weights,
        "--save_dir",
        out,
        "--batch_nums",
        2,
        "--keep-float",
        "auto",
        "--no_bench",
        "--threads",
        1,
    )
    done = run("slim/post_quant.py", *arguments)
    assert done.returncode == 0, done.stderr
    assert "8 images of the train list" in done.stdout + done.stderr
    check_result(out)
    again = run("slim/post_quant.py", "--config", config, "--model_path", out / "graph", "--save_dir", tmp_path / "b")
    assert again.returncode == 2 and "quantized already" in again.stderr


def test_post_quant_searches_analyzes_and_reconstructs(trained: tuple[Path, Path], tmp_path: Path) -> None:
    config, weights = trained
    out = tmp_path / "quant_model"
    base = ("--config", config, "--model_path", weights, "--save_dir", out, "--batch_nums", 2, "--threads", 1)
    wishes = ("--search", "--keep-float", "slow", "--analyze", "fast", "--reconstruct", 20, "--no_bench")
    done = run("slim/post_quant.py", *base, *wishes)
    assert done.returncode == 0, done.stderr
    check_result(out)
    log = done.stdout + done.stderr
    assert "Of 20 settings the best is" in log and "stay float as int8 makes them slower" in log
    assert "Reconstruction: " in log and "median error" in log
    rows = json.loads((out / "sensitivity.json").read_text(encoding="utf-8"))
    assert [row["error"] for row in rows] == sorted((row["error"] for row in rows), reverse=True)
    assert (out / "sensitivity.png").stat().st_size > 1000
    refused = run("slim/post_quant.py", *base, "--overwrite", "--tables", "log2")
    assert refused.returncode == 2 and "looks nothing up" in refused.stderr


def test_quant_by_the_words_of_the_tutorial(trained: tuple[Path, Path], tmp_path: Path) -> None:
    config, weights = trained
    out = tmp_path / "quant_model"
    words = ("--config", config, "--retraining_iters", 4, "--model_path", weights, "--save_dir", out)
    done = run("slim/quant.py", *words, "--threads", 1)
    assert done.returncode == 0, done.stderr
    log = done.stdout + done.stderr
    assert "Step 1/2: Start to quantify the model..." in log and "iter: 4/4" in log
    check_result(out)
    assert load(out / "graph").record[-1]["method"] == "qat"
    for folder in (out, out / "float"):  # both were measured, with the threads asked for
        rows = json.loads((folder / "stage.json").read_text(encoding="utf-8"))["latency"]
        assert rows and {row["threads"] for row in rows} == {1}


def test_wrong_flags_end_with_2_before_any_work(trained: tuple[Path, Path], tmp_path: Path) -> None:
    config, weights = trained
    base = ("--config", config, "--model_path", weights, "--save_dir", tmp_path / "out")
    for flags, words in (
        (("--target", "cpu-vni"), "cpu-vnni"),
        (("--observer", "mes"), "mse"),
        (("--not_quant_pattern", "nothing_like_it"), "matches no layer"),
    ):
        done = run("slim/post_quant.py", *base, *flags)
        assert done.returncode == 2 and words in done.stderr, done.stderr
