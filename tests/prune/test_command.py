"""The command `slim/prune.py` as a user starts it."""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import paddle
import pytest
import tiny

from paddleseg_slim.cli import prune, prune_folder, runner
from paddleseg_slim.cli.prune_result import Results
from paddleseg_slim.errors import UserError
from paddleseg_slim.graph import load, save
from paddleseg_slim.prune.curves import Curves
from paddleseg_slim.report.stage import read_stage


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A config and a checkpoint of it."""
    folder = tmp_path_factory.mktemp("prune")
    config = tiny.write_config(folder)
    done = tiny.run("train.py", "--config", config, "--iters", 2, "--save_dir", folder / "trained")
    assert done.returncode == 0, done.stderr
    return config, folder / "trained" / "iter_2" / "model.pdparams"


def flags(config: Path, model: Path, run: Path, *more: object) -> list[object]:
    return [
        "--config", config, "--model_path", model, "--save_dir", run, "--pruning_ratio", 0.3,
        "--sensitivity", "none", "--save_interval", 1, "--no_bench", "--threads", 1, *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def finished(weights: tuple[Path, Path]) -> tuple[Path, str]:
    run = weights[1].parents[2] / "pruned"
    done = tiny.run("slim/prune.py", *flags(*weights, run, "--retraining_iters", 2))
    assert done.returncode == 0, done.stderr
    return run, done.stdout + done.stderr


def test_log_lines_are_those_of_the_tutorial(finished: tuple[Path, str]) -> None:
    for line in (
        "Step 1/3: Start calculating the sensitivity of model parameters...",
        "Step 2/3: Start to prune the model, the ratio of pruning is 0.3...",
        "Step 3/3: Start retraining the model.",
        "FLOPs: asked 30.00 % removed, achieved",
        "layers were refitted on 8 images",
        f"ONNX: {finished[0] / 'model.onnx'}",
    ):
        assert line in finished[1]


def test_gradual_zeros_take_training() -> None:
    parser = argparse.ArgumentParser()
    prune.add_arguments(parser)
    base = ["--config", "x.yml", "--pruning_ratio", "0.3", "--model_path", "m.pdparams", "--method", "gmp"]
    with pytest.raises(UserError, match="gmp makes zeros while it trains"):
        prune.check(parser.parse_args([*base, "--retraining_iters", "0"]))


def test_files_and_stages(finished: tuple[Path, str]) -> None:
    run = finished[0]
    for name in (
        "model.json",
        "model.pdiparams",
        "deploy.yaml",
        "sensitivities.json",
        "report.html",
        "graph/graph.json",
    ):
        assert (run / name).is_file(), name
    before, after, last = (read_stage(run / name) for name in ("dense", "pruned", "."))
    assert after.macs is not None and before.macs is not None and after.macs <= 0.7 * before.macs
    assert last.macs == after.macs and last.params < before.params  # type: ignore[operator]
    assert last.base == "dense" and last.accuracy is not None and last.accuracy.per_class
    assert (before.name, after.name, last.name) == ("dense", "before_retraining", "retrained")
    assert sum(last.files.values()) < sum(before.files.values())
    assert last.widths == after.widths and any(now < was for was, now in last.widths.values()) and not before.widths
    assert set(last.untouched) == {name for name, (was, now) in last.widths.items() if was == now}
    assert last.pinned["classifier.conv"] == "they are the network's output" and not last.pictures
    page = (run / "report.html").read_text(encoding="utf-8")
    assert page.count("What was removed") == 1 and "classifier.conv" in page and "Times are" not in page


def test_a_ratio_of_zero_leaves_the_model_as_it_is(weights: tuple[Path, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = tiny.run("slim/prune.py", *flags(*weights, run, "--retraining_iters", 0, "--pruning_ratio", 0))
    assert done.returncode == 0, done.stderr
    last = read_stage(run)
    assert last.macs == read_stage(run / "dense").macs and all(was == now for was, now in last.widths.values())
    assert set(last.untouched) == set(last.widths) and not last.notes


@pytest.mark.slow
def test_result_trains_evaluates_and_is_pruned_again(finished: tuple[Path, str], weights: tuple[Path, Path]) -> None:
    model = load(finished[0] / "graph")
    assert [entry["step"] for entry in model.record] == ["prune"]
    assert np.isfinite(model(paddle.rand([1, 3, 32, 32]))[0].numpy()).all()
    done = tiny.run("val.py", "--config", weights[0], "--model_path", finished[0] / "graph")
    assert done.returncode == 0, done.stderr
    again = finished[0].parent / "again"
    done = tiny.run("slim/prune.py", *flags(weights[0], finished[0] / "graph", again, "--retraining_iters", 0))
    assert done.returncode == 0, done.stderr
    assert [entry["step"] for entry in load(again / "graph").record] == ["prune", "prune"]


def test_killed_in_retraining_and_resumed(finished: tuple[Path, str], weights: tuple[Path, Path]) -> None:
    run = finished[0].parent / "killed"
    arguments = flags(*weights, run, "--retraining_iters", 2)
    process = subprocess.Popen(
        tiny.command("slim/prune.py", *arguments),
        env=tiny.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    limit = time.monotonic() + 240
    while not (run / "retraining" / "iter_1").is_dir() and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (run / "retraining" / "iter_1").is_dir() and not (run / "graph").exists()
    other = tiny.run("slim/prune.py", *flags(*weights, run, "--retraining_iters", 2, "--align", 4), "--resume")
    assert other.returncode == 2 and "--align: 4, was 8" in other.stderr
    done = tiny.run("slim/prune.py", *arguments, "--resume")
    assert done.returncode == 0, done.stderr
    assert read_stage(run).widths == read_stage(finished[0]).widths != {}
    assert "What was removed" in (run / "report.md").read_text(encoding="utf-8")
    ours, theirs = load(run / "graph"), load(finished[0] / "graph")
    for name, tensor in ours.tensors():
        expected = theirs.tensor(name).numpy()
        np.testing.assert_allclose(tensor.numpy(), expected, rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    ("more", "code", "text"),
    [
        pytest.param(["--pruning_ratio", "nan"], 2, "pruning ratio", marks=pytest.mark.slow),
        (["--pruning_ratio", "0.99", "--align", "16"], 3, "removed"),
        pytest.param(["--pruning_ratio", "1"], 2, "pruning ratio", marks=pytest.mark.slow),
        pytest.param(["--keep", "no_such_layer"], 2, "matches no layer", marks=pytest.mark.slow),
        pytest.param(["--criterion", "l3_norm"], 2, "l1_norm", marks=pytest.mark.slow),
    ],
)
def test_what_cannot_work_ends_before_it_takes_long(
    weights: tuple[Path, Path], tmp_path: Path, more: list[str], code: int, text: str
) -> None:
    done = tiny.run("slim/prune.py", *flags(*weights, tmp_path / "run", "--retraining_iters", 1), *more)
    assert done.returncode == code, done.stderr
    assert text in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "model.json").exists()


@pytest.mark.parametrize(
    "more", [["--no_reconstruct"], ["--method", "gmp"], ["--from_scratch", "--model_path", "m.pdparams"]]
)
def test_images_of_a_refit_that_is_not_made_are_refused(more: list[str]) -> None:
    parser = argparse.ArgumentParser()
    prune.add_arguments(parser)
    base = ["--config", "x.yml", "--retraining_iters", "2", "--pruning_ratio", "0.3", "--model_path", "m.pdparams"]
    prune.check(parser.parse_args([*base, *more]))
    with pytest.raises(UserError, match=re.escape(more[0])):
        prune.check(parser.parse_args([*base, *more, "--reconstruct_images", "8"]))


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("unstructured", ["--target-params", "1M"]),
        ("unstructured", ["--align", "4"]),
        ("gmp", ["--no_reconstruct"]),
        ("gmp", ["--target-latency", "3"]),
        ("2:4", ["--max-drop", "0"]),
        ("gmp", ["--limit", "head=0.5"]),
        ("gmp", ["--sparse_iters", "5"]),
        ("2:4", ["--criterion", "fpgm"]),
        ("2:4", ["--pruning_ratio", "0.2"]),
        ("gmp", ["--sensitivity", "fast"]),
        ("gmp", ["--label_free"]),
        ("gmp", ["--sensitivity_file", "x.json"]),
        ("channel", ["--only_1x1"]),
        ("channel", ["--label_free", "--max-drop", "0.01"]),
        ("channel", ["--engine", "onnxruntime"]),
        ("channel", ["--distill_weight", "2", "--no_distill"]),
        ("channel", ["--distill_weight", "nan"]),
        ("channel", ["--sparse_factor", "0.1"]),
        ("channel", ["--sparse_factor", "-1", "--sparse_iters", "2"]),
        ("channel", ["--overwrite", "--resume"]),
        ("channel", ["--learning_rate", "-1"]),
        ("channel", ["--save_interval", "0"]),
        ("channel", ["--log_iters", "0"]),
        ("channel", ["--keep_checkpoint_max", "-1"]),
        ("channel", ["--limit", "head=1.5"]),
        ("channel", ["--limit", "head"]),
    ],
)
def test_options_that_a_method_has_no_use_for_are_refused(method: str, more: list[str]) -> None:
    parser = argparse.ArgumentParser()
    prune.add_arguments(parser)
    base = ["--config", "x.yml", "--retraining_iters", "2", "--model_path", "m.pdparams"]
    base += ["--pruning_ratio", "0.5" if method == "2:4" else "0.3"]
    prune.check(parser.parse_args([*base, "--method", method, "--keep", "head"]))
    with pytest.raises(UserError, match=more[0].replace("-", "[-_]")):
        prune.check(parser.parse_args([*base, "--method", method, *more]))


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (["--no_reconstruct"], "--no_reconstruct leaves out"),
        (["--from_scratch"], "--from_scratch leaves out"),
        (["--max-drop", "0.01"], "--max-drop"),
        (["--label_free"], "--label_free"),
    ],
)
def test_what_contradicts_the_refit_is_refused(more: list[str], text: str, tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    prune.add_arguments(parser)
    base = ["--config", "x.yml", "--retraining_iters", "1", "--pruning_ratio", "0.3", "--model_path", "m.pdparams"]
    with pytest.raises(UserError, match=text):
        prune.settle(parser.parse_args([*base, "--sensitivity", "refit", *more]))
    file = tmp_path / "sensitivities.json"
    Curves("refit", "divergence", 1.0, 4, {}, {"settings": json.dumps(["refit", "obs", 42, False, 4])}).write(file)
    with pytest.raises(UserError, match=f"sensitivities.json.*{text}"):
        prune.settle(parser.parse_args([*base, "--sensitivity_file", str(file), *more]))
    chosen = parser.parse_args([*base, *more])
    prune.settle(chosen)
    assert (chosen.sensitivity, chosen.criterion) == ("fast", "l1_norm")


@pytest.mark.parametrize(
    ("sensitivity", "more", "text"),
    [
        ("none", ["--label_free"], "needs no labels"),
        ("none", ["--sensitivity_images", "4"], "l1_norm looks at no --sensitivity_images"),
        ("taylor", ["--max-drop", "0.01"], "does not measure the metric"),
        ("none", ["--criterion", "l3_norm"], "l3_norm"),
    ],
)
def test_what_a_sensitivity_has_no_use_for_is_refused(sensitivity: str, more: list[str], text: str) -> None:
    parser = argparse.ArgumentParser()
    prune.add_arguments(parser)
    base = ["--config", "x.yml", "--retraining_iters", "1", "--pruning_ratio", "0.3", "--sensitivity"]
    prune.settle(parser.parse_args([*base, "none", "--criterion", "taylor", "--sensitivity_images", "4"]))
    with pytest.raises(UserError, match=text):
        prune.settle(parser.parse_args([*base, sensitivity, *more]))


@pytest.mark.parametrize("more", [["--engine", "onxruntime"], ["--engine", "tensorrt"]])
def test_an_engine_that_is_not_here_is_refused(more: list[str]) -> None:
    parser = argparse.ArgumentParser()
    prune.add_arguments(parser)
    base = ["--config", "x.yml", "--retraining_iters", "1", "--target-latency", "3", "--model_path", "m.pdparams"]
    with pytest.raises(UserError, match=more[1]):
        prune.check(parser.parse_args([*base, *more]))


def test_damaged_files_of_a_run_are_made_again_or_named(
    finished: tuple[Path, str], weights: tuple[Path, Path], tmp_path: Path
) -> None:
    """A stage, an exported model and all checkpoints are damaged: the result is the same. The settings are needed."""
    run = tmp_path / "run"
    shutil.copytree(finished[0], run)
    for file in (
        "pruned/graph/weights.safetensors",
        "pruned/stage.json",
        "dense/model.json",
        *(f"retraining/iter_{n}/model.pdparams" for n in (1, 2)),
    ):
        os.truncate(run / file, 100)
    arguments = flags(*weights, run, "--retraining_iters", 2, "--resume")
    done = tiny.run("slim/prune.py", *arguments)
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    for text in ("weights.safetensors", "dense/model.json is damaged", "the training starts anew"):
        assert text in said
    assert read_stage(run / "dense").files == read_stage(finished[0] / "dense").files
    assert read_stage(run).widths == read_stage(run / "pruned").widths == read_stage(finished[0]).widths != {}
    ours, theirs = load(run / "graph"), load(finished[0] / "graph")
    for name, tensor in ours.tensors():
        np.testing.assert_array_equal(tensor.numpy(), theirs.tensor(name).numpy(), err_msg=name)
    os.truncate(run / "pruned/stage.json", 100)
    done = tiny.run("slim/prune.py", *arguments)
    assert done.returncode == 0 and "pruned/stage.json is not JSON" in done.stdout + done.stderr, done.stderr
    os.truncate(run / prune_folder.SETTINGS, 100)
    done = tiny.run("slim/prune.py", *arguments)
    assert done.returncode == 2 and "prune.json is damaged" in done.stderr, done.stderr
    (run / prune_folder.SETTINGS).unlink()
    done = tiny.run("slim/prune.py", *arguments)
    assert done.returncode == 2 and "prune.json is missing" in done.stderr and "--overwrite" in done.stderr
    assert (run / "model.json").is_file()


@pytest.mark.parametrize(
    ("more", "code", "text"),
    [
        (["--pruning_ratio", "0.99"], 3, "FLOPs cannot come down"),
        (["--keep", "no_such_layer"], 2, "matches no layer"),
        (["--opts", "optimizer.type=Foo"], 2, "Unknown optimizer"),
        (["--opts", "lr_scheduler.type=Foo"], 2, "Unknown learning-rate schedule"),
        (["--batch_size", "100"], 2, "fewer than a batch of 100"),
        (["--sensitivity_file", "curves.json"], 2, "other weights"),
        (["--target-latency", "0.0001", "--engine", "onnxruntime"], 3, "cannot be reached"),
        (["--method", "unstructured", "--keep", "("], 2, "no regular expression"),
    ],
)
def test_what_is_refused_leaves_the_run_before_as_it_was(
    finished: tuple[Path, str], weights: tuple[Path, Path], tmp_path: Path, more: list[str], code: int, text: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Also with ``--overwrite``: all of it is looked at before anything is deleted, measured or written."""
    run = tmp_path / "run"
    shutil.copytree(finished[0], run)
    monkeypatch.chdir(tmp_path)
    curves = json.loads((run / "sensitivities.json").read_text())
    (tmp_path / "curves.json").write_text(
        json.dumps({**curves, "fingerprint": {**curves["fingerprint"], "weights": ""}})
    )
    monkeypatch.setattr(Results, "evaluate", None)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    arguments = [*map(str, flags(*weights, run, "--retraining_iters", 1)), "--overwrite", *more]
    if "--method" in more:
        del arguments[(at := arguments.index("--sensitivity")) : at + 2]
    assert runner.main("prune", arguments) == code
    assert text in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_a_new_run_forgets_the_old_one_and_never_its_own_model(tmp_path: Path) -> None:
    """What is no result of a pruning stays, and the file of curves that is given."""
    for name in (
        "dense/model.json",
        "graph/graph.json",
        "best_model/model.pdparams",
        "sensitivities.json",
        "stage.json",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    parser = argparse.ArgumentParser()
    prune.add_arguments(parser)
    base = ["--config", "x.yml", "--retraining_iters", "1", "--pruning_ratio", "0.3", "--save_dir", str(tmp_path)]
    args = parser.parse_args([*base, "--overwrite", "--sensitivity_file", str(tmp_path / "sensitivities.json")])
    config: Any = SimpleNamespace(to_dict=dict)
    prune_folder.RunFolder(tmp_path, args, config).begin()
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"best_model/model.pdparams", "sensitivities.json", "prune.json"}
    with pytest.raises(UserError, match="--model_path is in graph"):
        prune.check(parser.parse_args([*base, "--overwrite", "--model_path", str(tmp_path / "graph")]))
    prune.check(parser.parse_args([*base, "--overwrite", "--model_path", str(tmp_path / "best_model/model.pdparams")]))


def test_a_run_whose_goal_is_not_met_goes_on_with_another(tmp_path: Path) -> None:
    name, run = "fastscnn_fashion5_128x128", tmp_path / "run"
    common = [
        "--config", tiny.ROOT / f"configs/fashion/{name}.yml", "--save_dir", run, "--threads", 1, "--no_bench",
        "--model_path", tiny.ROOT / f"configs/fashion/weights/{name}/model.safetensors",
        "--sensitivity_images", 4, "--retraining_iters", 0, "--opts", "val_dataset.num_samples=16",
    ]  # fmt: skip
    done = tiny.run("slim/prune.py", *common, "--max-drop", 0, "--pruning_ratio", 0.6)
    assert done.returncode == 3 and "another goal with --resume" in done.stderr, done.stderr
    other = tiny.run("slim/prune.py", *common, "--pruning_ratio", 0.2, "--resume", "--seed", 7)
    assert other.returncode == 2 and "--seed: 7, was 42" in other.stderr
    done = tiny.run("slim/prune.py", *common, "--pruning_ratio", 0.2, "--resume")
    assert done.returncode == 0, done.stderr
    assert "[SENSITIVITY]" not in done.stdout + done.stderr and "the order of the channels" in done.stdout + done.stderr
    stages = read_stage(run), read_stage(run / "dense")
    assert stages[0].macs <= 0.8 * stages[1].macs  # type: ignore[operator]
    settings = json.loads((run / prune_folder.SETTINGS).read_text())
    assert settings["flags"]["pruning_ratio"] == 0.2


def test_curves_of_a_file_say_how_they_were_made(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    prune.add_arguments(parser)
    curves = Curves("exact", "mIoU", 0.5, 4, {}, {"settings": json.dumps(["exact", "fpgm", 42, False, 4])})
    curves.write(tmp_path / "sensitivities.json")
    base = ["--config", "x.yml", "--retraining_iters", "1", "--sensitivity_file", str(tmp_path / "sensitivities.json")]
    for more, expected in (([], ("exact", "fpgm")), (["--criterion", "l2_norm"], ("exact", "l2_norm"))):
        chosen = parser.parse_args([*base, *more])
        prune.settle(chosen)
        assert (chosen.sensitivity, chosen.criterion) == expected


@pytest.mark.slow
def test_an_untrained_model_is_refused_before_the_analysis(weights: tuple[Path, Path], tmp_path: Path) -> None:
    state = paddle.load(str(weights[1]))
    for name in state:
        if name.startswith("classifier.conv."):
            state[name] = state[name] * 0  # one class everywhere
    paddle.save(state, str(tmp_path / "constant.pdparams"))
    more = ["--retraining_iters", 1, "--sensitivity", "fast"]
    done = tiny.run("slim/prune.py", *flags(weights[0], tmp_path / "constant.pdparams", tmp_path / "run", *more))
    assert done.returncode == 2 and "not trained" in done.stderr
    assert not (tmp_path / "run" / "dense").exists()


def test_a_graph_that_is_not_finite_is_refused_before_anything_is_written(
    weights: tuple[Path, Path], finished: tuple[Path, str], tmp_path: Path
) -> None:
    model = load(finished[0] / "graph")
    name = "classifier.dsconv1.depthwise_conv._conv.weight"
    array = model.tensor(name).numpy()
    array[3, 0, 1, 1] = np.nan
    model.set_tensor(name, array)
    save(model, tmp_path / "graph")
    done = tiny.run("slim/prune.py", *flags(weights[0], tmp_path / "graph", tmp_path / "run", "--retraining_iters", 1))
    assert done.returncode == 2, done.stderr
    assert f"{name} has NaN" in done.stderr and "Traceback" not in done.stderr
    assert not list((tmp_path / "run").glob("*"))


def test_no_weights_and_no_goal(weights: tuple[Path, Path], tmp_path: Path) -> None:
    base = ["--config", weights[0], "--retraining_iters", 1, "--save_dir", tmp_path / "run"]
    for more, text in ((["--pruning_ratio", 0.3], "--model_path"), (["--model_path", weights[1]], "No goal")):
        done = tiny.run("slim/prune.py", *base, *more)
        assert done.returncode == 2 and text in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("method", ["unstructured", "gmp", "2:4"])
def test_zeros(weights: tuple[Path, Path], tmp_path: Path, method: str) -> None:
    run = tmp_path / "run"
    arguments = flags(*weights, run, "--retraining_iters", 2, "--method", method, "--keep", "classifier")
    for flag in ("--sensitivity", *(["--pruning_ratio"] if method == "2:4" else [])):
        del arguments[(at := arguments.index(flag)) : at + 2]
    done = tiny.run("slim/prune.py", *arguments)
    assert done.returncode == 0, done.stderr
    model = load(run / "graph")
    part = model.record[-1]["zeros"]
    assert part == pytest.approx(0.5 if method == "2:4" else 0.3, abs=0.02)
    assert all(t.numpy().all() for name, t in model.tensors() if re.fullmatch(r"classifier.*conv.*weight", name))
    assert any("faster" in note or "TensorRT" in note for note in read_stage(run).notes)
    assert "What was removed" not in (run / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_sparse_training_first(weights: tuple[Path, Path], tmp_path: Path) -> None:
    arguments = flags(
        *weights, tmp_path / "run", "--retraining_iters", 1, "--criterion", "bn_scale", "--sparse_iters", 2
    )
    done = tiny.run("slim/prune.py", *arguments)
    assert done.returncode == 0, done.stderr
    assert "Sparse training of" in done.stdout + done.stderr
    given = tiny.run("val.py", "--config", weights[0], "--model_path", weights[1])
    score = read_stage(tmp_path / "run" / "dense").accuracy.score  # type: ignore[union-attr]
    assert f"mIoU: {score:.4f}" in given.stdout + given.stderr  # of the model as it was given


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Paddle launches CPU processes on Linux")
def test_two_processes_share_the_images_and_find_the_same(tmp_path: Path) -> None:
    config = tiny.write_config(tmp_path)
    found = []
    for name, launcher in (
        ("one", []),
        ("two", ["-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--log_dir", str(tmp_path / "log")]),
    ):
        flags = [
            "--config", config, "--save_dir", tmp_path / name, "--from_scratch", "--pruning_ratio", 0.3, "--label_free",
            "--sensitivity", "exact", "--batch_size", 1, "--retraining_iters", 0, "--no_bench", "--threads", 1,
        ]  # fmt: skip
        done = subprocess.run(
            [sys.executable, *launcher, str(tiny.ROOT / "slim/prune.py"), *map(str, flags)],
            capture_output=True, text=True, env=tiny.environment(), timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        found.append(json.loads((tmp_path / name / "sensitivities.json").read_text()))
    one, two = found
    assert one["images"] == two["images"] == 4 and one["groups"].keys() == two["groups"].keys()
    for name, curve in one["groups"].items():
        assert curve["kept"] == two["groups"][name]["kept"]
        np.testing.assert_allclose(curve["losses"], two["groups"][name]["losses"], rtol=1e-9)
    first, second = (read_stage(tmp_path / name) for name in ("one", "two"))
    assert first.accuracy == second.accuracy and first.macs == second.macs
    assert {n: tuple(t.shape) for n, t in load(tmp_path / "one/graph").tensors()} == {
        n: tuple(t.shape) for n, t in load(tmp_path / "two/graph").tensors()
    }


def test_by_default_the_refit_decides_and_training_that_does_harm_is_left_out(tmp_path: Path) -> None:
    """Half of the multiply-accumulates cost little without training; two steps at an absurd rate cost all."""
    weights = tiny.ROOT / "configs/fashion/weights/pp_humanseg_lite_fashion5_128x128/model.safetensors"
    config = tiny.ROOT / "configs/fashion/pp_humanseg_lite_fashion5_128x128.yml"
    more = [
        "--sensitivity_images",
        8,
        "--reconstruct_images",
        32,
        "--threads",
        2,
        "--opts",
        "val_dataset.num_samples=40",
    ]
    done = tiny.run(
        "slim/prune.py", "--config", config, "--model_path", weights, "--save_dir", tmp_path, "--pruning_ratio", 0.5,
        "--retraining_iters", 2, "--learning_rate", 100, "--no_bench", *more,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    curves = json.loads((tmp_path / "sensitivities.json").read_text())
    assert curves["mode"] == "refit" and not list(tmp_path.glob("sensitivity.rank*"))
    dense, pruned, before = (read_stage(tmp_path / name) for name in ("dense", ".", "pruned"))
    assert pruned.macs <= 0.5 * dense.macs
    assert list(pruned.pictures) == ["sensitivities.png"] and list(before.pictures) == ["../sensitivities.png"]
    assert "nats" in pruned.pictures["sensitivities.png"]
    picture = base64.b64encode((tmp_path / "sensitivities.png").read_bytes()).decode("ascii")
    assert (tmp_path / "report.html").read_text(encoding="utf-8").count(picture) == 1
    assert pruned.accuracy == before.accuracy and pruned.notes and pruned.notes[0] in done.stdout + done.stderr
    assert pruned.accuracy.values["mIoU"] > dense.accuracy.values["mIoU"] - 0.03


def test_groups_command(tmp_path: Path) -> None:
    verb = [sys.executable, "-m", "paddleseg_slim.cli.main", "groups", "fast_scnn", "--json", "groups.json"]
    environment = {**tiny.environment(), "PYTHONPATH": str(tiny.ROOT), "COLUMNS": "160"}
    done = subprocess.run(verb, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    data = json.loads((tmp_path / "groups.json").read_text())
    assert data["prunable_share"] > 0.95 and "network's output" in done.stdout
