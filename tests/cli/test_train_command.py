"""train.py as users run it: log lines, files, kill and resume, divergence."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny import ROOT, command, environment, run, write_config

from paddleseg_slim.files import sha256
from paddleseg_slim.train.checkpoint import find_resume

TRAIN_LINE = re.compile(
    r"\[TRAIN\] epoch: \d+, iter: \d+/6, loss: \d+\.\d{4}, lr: \d+\.\d{6}, batch_cost: \d+\.\d{4}, "
    r"reader_cost: \d+\.\d{5}, ips: \d+\.\d{4} samples/sec \| ETA \d\d:\d\d:\d\d"
)
EVAL_LINE = re.compile(r"\[EVAL\] #Images: 4 mIoU: \d\.\d{4} Acc: \d\.\d{4} Kappa: -?\d\.\d{4} Dice: \d\.\d{4}")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """A config, the folder of a finished run of it, and what the run printed."""
    folder = tmp_path_factory.mktemp("run")
    config = write_config(folder)
    done = run(
        "train.py",
        *("--config", config, "--do_eval", "--save_interval", 2, "--log_iters", 2, "--threads", 1),
        *("--use_ema", "--keep_checkpoint_max", 2, "--save_dir", folder / "out", "--use_vdl"),
        *("--engine", "onnxruntime"),
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    return config, folder / "out", done.stdout


def test_log_lines_and_files_are_those_of_paddleseg(finished: tuple[Path, Path, str]) -> None:
    _, out, printed = finished
    assert len(TRAIN_LINE.findall(printed)) == 3
    assert len(EVAL_LINE.findall(printed)) == 3
    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert {"best_model/model.pdparams", "iter_6/model.pdparams", "iter_6/model.pdopt"} <= names
    assert {"iter_6/ema_model.pdparams", "ema_best_model/ema_model.pdparams"} <= names
    assert not (out / "iter_2").exists()  # --keep_checkpoint_max 2
    assert any(name.startswith("vdlrecords") for name in names)
    assert not [name for name in names if Path(name).name.startswith(".")]


def test_visualdl_can_read_what_was_logged(finished: tuple[Path, Path, str]) -> None:
    reader = pytest.importorskip("visualdl").LogReader(file_path=str(next(finished[1].glob("vdlrecords*"))))
    tags = reader.get_tags()
    assert {"Train/loss", "Train/lr", "Evaluate/mIoU"} <= set(tags["scalar"])
    assert len(reader.get_data("scalar", "Evaluate/mIoU")) == 3
    assert {f"Samples/{index}" for index in range(4)} <= set(tags["image"])


def test_manifest_records_what_a_resume_must_share(finished: tuple[Path, Path, str]) -> None:
    _, out, _ = finished
    manifest = json.loads((out / "iter_6/manifest.json").read_text())
    assert manifest["iter"] == 6
    assert manifest["threads"] == 1
    assert manifest["settings"]["seed"] == 42
    assert manifest["files"]["model.pdparams"] == sha256(out / "iter_6/model.pdparams")
    stage = json.loads((out / "stage.json").read_text())
    assert stage["accuracy"]["primary"] == "mIoU"
    assert [step for step, _ in stage["curves"]["loss"]] == [2, 4, 6]
    assert stage["input_shape"] == [1, 3, 32, 32] and 1e6 < stage["macs"] < 1e7  # 56.4 M at 128x128
    assert all((out / name).is_file() for name in stage["samples"]) and len(stage["samples"]) == 4


@pytest.mark.skipif(sys.platform == "win32", reason="a process there has no SIGINT of its own")
def test_an_interrupted_run_says_so_and_leaves_whole_checkpoints(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    out = tmp_path / "out"
    flags = ("--config", config, "--iters", 2000, "--save_interval", 2, "--threads", 1, "--save_dir", out)
    process = subprocess.Popen(
        command("train.py", *flags),
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background ignores it
    )
    deadline = time.monotonic() + 120
    while not (out / "iter_4").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, printed = process.communicate(timeout=60)
    assert process.returncode == 130
    assert len(printed.strip().splitlines()) == 2, printed
    assert "--resume_model" in printed
    assert not list(out.glob(".*"))  # no lock, nothing half-written
    assert find_resume(out).iter >= 4


def test_killed_run_resumes_to_the_same_last_digit(finished: tuple[Path, Path, str], tmp_path: Path) -> None:
    config, out, _ = finished
    flags = ("--config", config, "--do_eval", "--save_interval", 2, "--threads", 1, "--use_ema", "--save_dir", tmp_path)
    flags += ("--engine", "onnxruntime")
    process = subprocess.Popen(command("train.py", *flags), env=environment(), stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (tmp_path / "iter_2").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL if sys.platform != "win32" else signal.SIGTERM)
    process.wait()
    assert (tmp_path / "iter_2").exists()
    assert not (tmp_path / "iter_6").exists()
    resumed = run("train.py", *flags, "--resume_model", tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    for name in ("model.pdparams", "model.pdopt", "ema_model.pdparams"):
        assert sha256(tmp_path / "iter_6" / name) == sha256(out / "iter_6" / name)
    assert sha256(tmp_path / "best_model/model.pdparams") == sha256(out / "best_model/model.pdparams")
    assert not list(tmp_path.glob(".*"))


def test_divergence_stops_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    done = run(
        "train.py",
        *("--config", config, "--save_interval", 1, "--learning_rate", 1e30, "--save_dir", tmp_path / "out"),
        *("--threads", 1, "--opts", "lr_scheduler.warmup_iters=0"),
    )
    assert done.returncode == 1
    assert "nan" in done.stderr.lower() or "infinite" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 2
    kept = sorted(path.name for path in (tmp_path / "out").glob("iter_*"))
    assert kept in ([], ["iter_1"])
    assert not list((tmp_path / "out").glob(".*"))


def test_scripts_run_from_the_root_without_installation() -> None:
    done = subprocess.run(
        [sys.executable, "-S", "-c", "import runpy; runpy.run_path('train.py')"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr  # importing the command needs the standard library alone
