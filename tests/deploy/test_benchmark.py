from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from matplotlib.figure import Figure
from onnx_files import conv_net
from PIL import Image

from paddleseg_slim.cli.bench import _images as images_of
from paddleseg_slim.cli.bench import _require
from paddleseg_slim.deploy.benchmark import BenchResult, Candidate, Row, Settings, compare, describe_comparison, measure
from paddleseg_slim.deploy.benchmark.result import NOT_COMPARED, draw
from paddleseg_slim.deploy.benchmark.worker import fill_shape, random_feeds
from paddleseg_slim.deploy.description import Deploy, write_deploy
from paddleseg_slim.deploy.runtimes import RuntimeOptions, TensorSpec
from paddleseg_slim.deploy.runtimes.machine import idle_cpus
from paddleseg_slim.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    return conv_net(tmp_path_factory.mktemp("bench") / "small.onnx", width=8, layers=2)


def noisy(generator: np.random.Generator, factor: float, machine: np.ndarray, runs: int = 5) -> np.ndarray:
    """Times of a model on a machine whose speed drifts, with now and then an interruption."""
    times = factor * machine[:, None] * generator.lognormal(0, 0.05, (len(machine), runs))
    return times * np.where(generator.random(times.shape) < 0.05, 3.0, 1.0)


def test_interval_holds_the_truth_as_often_as_it_says() -> None:
    """On synthetic times with drift and interruptions, for equal models and for one 1.25 times as fast."""
    generator = np.random.default_rng(0)
    for truth in (1.0, 1.25):
        held, widths = 0, []
        for trial in range(200):
            machine = np.exp(np.cumsum(generator.normal(0, 0.05, 10)))
            base, other = noisy(generator, truth, machine), noisy(generator, 1.0, machine)
            result = compare("base", base, other, seed=trial)
            held += result.low <= truth <= result.high
            widths.append(result.high - result.low)
        assert 0.88 <= held / 200 <= 1.0
        assert np.median(widths) < 0.12


def test_verdicts() -> None:
    generator = np.random.default_rng(1)
    machine = np.ones(10)
    base = noisy(generator, 1.0, machine)
    faster = compare("a", base, base / 2)
    assert faster.verdict == "faster" and faster.speedup == pytest.approx(2.0)
    assert compare("a", base, base * 2).verdict == "slower"
    same = compare("a", base, noisy(generator, 1.0, machine))
    assert same.no_difference and describe_comparison(same).startswith("no difference")
    assert compare("a", base[:1], base[:1] / 2).no_difference  # one pair proves nothing
    assert compare("a", base, base / 2, seed=5) == compare("a", base, base / 2, seed=5)


def test_measure(small: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(small.read_bytes()[:300])
    candidates = [
        Candidate("one", small),
        Candidate("two", small),
        Candidate("broken", broken),
        Candidate("one", small, "openvino"),
    ]
    result = measure(candidates, input_shape=(2, 3, 16, 24), threads=1, warmup=1, repeats=8, block=2, interval=1e9)
    one, two, bad, other = result.rows
    assert [row.label for row in result.rows] == ["one@onnxruntime", "two@onnxruntime", "broken@onnxruntime",
                                                  "one@openvino"]  # fmt: skip
    assert one.comparison is None and other.comparison is None
    assert two.comparison is not None and two.comparison.base == "one@onnxruntime"
    assert two.comparison.low <= two.comparison.speedup <= two.comparison.high
    assert "broken.onnx" in bad.error and bad.comparison is None
    assert np.shape(one.times_ms) == (4, 2) and result.runs == 8
    assert 0 < one.median_ms <= one.p90_ms and one.cpu_ms > 0 and one.load_ms > 0 and one.peak_memory_mb > 10
    assert one.throughput == pytest.approx(2000 / one.median_ms)
    assert one.file_bytes == small.stat().st_size and one.int8_convs == "0/2"
    result.save(tmp_path / "out")
    data = json.loads((tmp_path / "out/benchmark.json").read_text())
    assert data["rows"][1]["comparison"]["verdict"] in ("faster", "slower", "no difference")
    assert data["rows"][2]["median_ms"] is None
    with Image.open(tmp_path / "out/benchmark.png") as picture:
        assert picture.size[0] > 500


def test_the_legend_lies_on_no_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [(name, engine) for engine in ("onnxruntime", "openvino", "paddle") for name in ("pruned", "dense")]
    rows = [
        Row(f"{name}@{engine}", name, engine, "cpu", "fp32", "", 0, median_ms=10.0 + place, p90_ms=11.0 + place)
        for place, (name, engine) in enumerate(pairs)
    ]
    overlaps: list[bool] = []
    save = Figure.savefig

    def saved(figure: Figure, *args: Any, **more: Any) -> None:
        save(figure, *args, **more)
        axes = figure.axes[0]
        box = (figure.legends or [axes.get_legend()])[0].get_window_extent()
        overlaps.extend(box.overlaps(text.get_window_extent()) for text in [*axes.texts, axes.xaxis.label])

    monkeypatch.setattr(Figure, "savefig", saved)
    draw(BenchResult(Settings((1, 3, 8, 8), 1), {"cpu": "a CPU"}, rows), tmp_path / "a.png")
    assert len(overlaps) == 7 and not any(overlaps)
    assert BenchResult(Settings((1, 3, 8, 8), 2), {"cpu": "a CPU"}, rows).title().startswith("1x3x8x8, 2 threads, ")


@pytest.mark.skipif(not hasattr(psutil.Process(), "cpu_affinity"), reason="this system holds no process on a core")
def test_engines_are_held_on_an_idle_core_where_there_is_one_to_spare(small: Path) -> None:
    cores = len(psutil.Process().cpu_affinity())
    assert idle_cpus(cores, 0.01) == ()  # all of them: nothing to choose
    result = measure([Candidate("one", small)], input_shape=(1, 3, 8, 8), threads=1, warmup=0, repeats=2)
    spare = psutil.cpu_count(logical=False) or 1
    assert len(result.settings.cpus) == (1 if min(spare, cores) > 1 else 0)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs to hold the busy process on a core")
def test_the_busy_core_is_left_out() -> None:
    allowed = psutil.Process().cpu_affinity()
    if len(allowed) < 2:
        pytest.skip("there is one core")
    busy = subprocess.Popen(
        [sys.executable, "-c", f"import os; os.sched_setaffinity(0, {{{allowed[0]}}})\nwhile 1: pass"]
    )
    try:
        load = psutil.cpu_percent(0.5, percpu=True)
        chosen = idle_cpus(1, 0.5)
    finally:
        busy.kill()
        busy.wait()
    others = [load[cpu] for cpu in allowed[1:]]
    assert not chosen or min(others) > 80 or chosen[0] != allowed[0]  # others may be as busy on a loaded machine


def test_goes_on_until_the_interval_is_narrow(small: Path) -> None:
    candidates = [Candidate("one", small), Candidate("two", small)]
    result = measure(
        candidates, input_shape=(1, 3, 8, 8), threads=1, warmup=0, repeats=4, block=2, interval=0, max_repeats=12
    )
    assert result.runs == 12


def test_the_interval_that_stopped_the_runs_is_the_one_that_is_told(small: Path) -> None:
    candidates, told = [Candidate("one", small), Candidate("two", small)], []
    for seed in range(6):
        settings = {"threads": 1, "warmup": 2, "repeats": 8, "block": 2, "interval": 0.4, "max_repeats": 80}
        result = measure(candidates, input_shape=(1, 3, 8, 8), seed=seed, **settings)
        found = result.rows[1].comparison
        told.append((result.runs, found.high - found.low))
    assert all(width <= 0.4 or runs == 80 for runs, width in told), told


def test_only_what_others_are_compared_with_is_called_the_base(small: Path) -> None:
    candidates = [Candidate("one", small), Candidate("two", small), Candidate("two", small, "openvino")]
    result = measure(candidates, input_shape=(1, 3, 8, 8), threads=1, warmup=0, repeats=4, base="one")
    assert [result.against(row) for row in (result.rows[0], result.rows[2])] == ["base", NOT_COMPARED]
    with pytest.raises(UserError, match="two@openvino was compared with nothing"):
        _require(argparse.Namespace(require_speedup=0.001), result)


def test_images_are_fed(small: Path) -> None:
    images = [np.full((1, 3, 8, 8), value, np.float32) for value in (0, 1)]
    result = measure([Candidate("m", small)], input_shape=(1, 3, 8, 8), warmup=0, repeats=2, images=images, data="dir")
    assert not result.rows[0].error and result.settings.data == "dir"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"candidates": []}, "nothing to measure"),
        ({"candidates": [("a", "onnxruntime"), ("a", "onnxruntime")]}, "Two models are called a@onnxruntime"),
        ({"candidates": [("a", "tensorrt")]}, "tensorrt"),
        ({"base": "b"}, "'b' is not measured"),
        ({"repeats": 0}, "0 repeats"),
        ({"input_shape": (1, 3, 0, 8)}, "Cannot measure"),
    ],
    ids=lambda item: item if isinstance(item, str) else "",
)
def test_refusals_before_anything_starts(small: Path, change, match: str) -> None:
    pairs = change.pop("candidates", [("a", "onnxruntime")])
    with pytest.raises(UserError, match=match):
        measure([Candidate(name, small, engine) for name, engine in pairs], **{"input_shape": (1, 3, 8, 8), **change})


def test_label_tells_what_is_not_default() -> None:
    candidate = Candidate("m", "m.onnx", "openvino", RuntimeOptions(precision="bf16"))
    assert candidate.label == "m@openvino bf16"


def test_random_feeds() -> None:
    specs = [TensorSpec("x", "float32", (-1, 3, -1, -1)), TensorSpec("size", "int64", (2,))]
    feeds = random_feeds(specs, [1, 3, 4, 5], 0)
    assert feeds["x"].shape == (1, 3, 4, 5) and feeds["x"].dtype == np.float32 and feeds["size"].tolist() == [0, 0]
    with pytest.raises(UserError, match="takes shape"):
        fill_shape(TensorSpec("x", "float32", (1, 3, 8, 8)), [1, 3, 4, 4])


def bench(*args: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "deploy/benchmark.py"), *map(str, args)]
    environment = {**{k: v for k, v in os.environ.items() if k != "PYTHONPATH"}, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200)


def test_command(small: Path, tmp_path: Path) -> None:
    wide = conv_net(tmp_path / "wide.onnx", width=32, layers=4)
    flags = ["--engine", "onnxruntime", "--input_shape", 64, 64, "--threads", 1, "--warmup", 1, "--repeats", 6]
    result = bench(f"dense={wide}", f"pruned={small}", *flags, "--save_dir", tmp_path / "out", "--require-speedup", 1)
    assert result.returncode == 0, result.stderr
    assert "1x3x64x64, 1 thread, median of" in result.stdout and "pruned" in result.stdout
    stage = json.loads((tmp_path / "out/stage.json").read_text())
    assert stage["kind"] == "bench" and {row["stage"] for row in stage["latency"]} == {"dense", "pruned"}
    assert stage["latency"][1]["base"] == "dense" and stage["latency"][1]["speedup"] > 1
    slower = bench(f"dense={wide}", f"pruned={small}", *flags, "--require-speedup", 1000)
    assert slower.returncode == 3 and "1000.0x was asked for" in slower.stderr


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["absent.onnx"], "No model at absent.onnx"),
        (["{model}", "--engine", "tensorrt"], "tensorrt"),
        (["{model}", "--engine", "onnxruntime", "--precision", "bf16x"], "Unknown precision"),
        (["{model}", "--engine", "onnxruntime", "--input_shape", "1", "2", "3"], "has 3 numbers"),
        (["{model}", "--batch", "0"], "--batch is 0"),
        (["{model}", "--require-speedup", "-2"], "--require-speedup is -2"),
        (["{model}", "--require-speedup", "2"], "there is one model"),
        (["{model}", "--repeats", "5", "--max_repeats", "4"], "--max_repeats is 4"),
    ],
)
def test_command_refuses(small: Path, flags: list[str], text: str) -> None:
    result = bench(*[flag.format(model=small) for flag in flags])
    assert result.returncode == 2 and text in result.stderr and "Traceback" not in result.stderr


def described(folder: Path, model: Path, transforms: list[dict]) -> Path:
    folder.mkdir()
    (folder / "model.onnx").write_bytes(model.read_bytes())
    write_deploy(folder, Deploy(onnx="model.onnx", transforms=transforms))
    return folder


def test_pictures_are_prepared_as_deploy_yaml_says(small: Path, tmp_path: Path) -> None:
    normalize = {"type": "Normalize", "mean": [0.0, 0.5, 1.0], "std": [0.5, 0.25, 1.0]}
    resize = {"type": "Resize", "target_size": [6, 4]}
    model = described(tmp_path / "a", small, [resize, normalize])
    (tmp_path / "pictures").mkdir()
    Image.fromarray(np.full((10, 12, 3), (255, 51, 0), np.uint8)).save(tmp_path / "pictures/a.png")
    arguments = argparse.Namespace(images=str(tmp_path / "pictures"), models=[f"m={model}"])
    for shape in ((2, 3, 4, 6), (1, 3, 8, 8)):  # the size that the transforms make, and another one
        (batch,) = images_of(arguments, shape)
        assert batch.shape == shape and batch.dtype == np.float32
        expected = np.array([1 / 0.5, (0.2 - 0.5) / 0.25, -1.0])
        np.testing.assert_allclose(batch[0].mean((1, 2)), expected, atol=1e-5)
    plain = argparse.Namespace(images=arguments.images, models=[str(small)])
    np.testing.assert_allclose(images_of(plain, (1, 3, 8, 8))[0][0, :, 0, 0], [1.0, -0.6, -1.0], atol=1e-5)
    other = described(tmp_path / "b", small, [resize])
    with pytest.raises(UserError, match="differently"):
        images_of(argparse.Namespace(images=arguments.images, models=[f"m={model}", f"n={other}"]), (1, 3, 8, 8))
