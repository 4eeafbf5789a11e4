"""kill -9 in every step of a chain, at random moments: the same models after."""

from __future__ import annotations

import json
import random
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
import pytest
import tiny
import yaml

from paddleseg_slim.files import sha256

QUICK_START = tiny.ROOT / "configs/recipes/quickstart.yml"
WEIGHTS = tiny.ROOT / "configs/fashion/weights/fastscnn_fashion5_128x128/model.safetensors"
_END_SECONDS = 60
_PRUNE = {"name": "pruned", "pruning_ratio": 0.3, "retraining_iters": 4, "save_interval": 2}
STEPS = [
    {"prune": {**_PRUNE, "no_bench": True}},
    {"distil": {"name": "distilled", "teacher_model_path": "@start", "iters": 4, "save_interval": 2, "do_eval": True}},
    {"ptq": {"name": "int8", "no_bench": True, "batch_nums": 2}},
    {"export": {"name": "exported", "onnx": True, "input_shape": [1, 3, 64, 64]}},
    {
        "bench": {
            **{"models": ["start=@pruned/dense", "int8=@int8"], "engine": ["onnxruntime"], "base": "start"},
            **{"input_shape": [1, 3, 64, 64], "repeats": 5, "interval": 10},
        }
    },
    "report",
]
KILLED = {"pruned": 2, "distilled": 2, "int8": 2, "exported": 2, "bench": 2}
"""How often a chain is killed in every step that makes or measures something."""

KILLED_QUICK_START = {"pruned": 8, "int8": 6, "bench": 6}
"""The same of the quick start."""


def write_recipe(folder: Path) -> Path:
    """The recipe and a config of few and small scenes, on which the repository's trained model is not at a loss."""
    few = {key: {**tiny.SEGMENTATION[key], "size": [64, 64]} for key in ("train_dataset", "val_dataset")}
    tiny.write_config(folder, **few)
    recipe = folder / "recipe.yml"
    common = {"threads": 1, "device": "cpu"}
    data = {"config": "tiny.yml", "model": str(WEIGHTS), "common": common, "steps": STEPS}
    recipe.write_text(yaml.safe_dump(data), encoding="utf-8")
    return recipe


def models(out: Path) -> dict[str, str]:
    """Hashes of every model file of a run, by relative path; what a training keeps on the way is a file, too."""
    kinds = ("*.pdparams", "*.pdiparams", "*.safetensors", "*.onnx")
    return {path.relative_to(out).as_posix(): sha256(path) for kind in kinds for path in sorted(out.rglob(kind))}


def start(recipe: Path, out: Path) -> subprocess.Popen[bytes]:
    """Begin the chain or go on with it."""
    return subprocess.Popen(
        tiny.command("slim/compress.py", "--recipe", recipe, "--save_dir", out, "--resume"),
        env=tiny.environment(),
        stdout=subprocess.DEVNULL,
        stderr=(out.parent / f"{out.name}.log").open("ab"),
    )


def watch(process: subprocess.Popen[bytes], out: Path) -> Iterator[tuple[str, float]]:
    """Step that runs and CPU seconds that its process has used, again and again until the chain ends."""
    state = out / "state.json"
    while process.poll() is None:
        steps = json.loads(state.read_text(encoding="utf-8"))["steps"] if state.is_file() else {}
        for name, record in steps.items():
            if record["status"] == "running" and record["process"]:
                try:
                    used = psutil.Process(int(record["process"][0])).cpu_times()
                except psutil.NoSuchProcess:
                    continue
                yield name, used.user + used.system + used.children_user + used.children_system
        time.sleep(0.02)


def run_whole(recipe: Path, out: Path) -> dict[str, float]:
    """Run the chain undisturbed; CPU seconds of every step."""
    seconds: dict[str, float] = {}
    process = start(recipe, out)
    for name, used in watch(process, out):
        seconds[name] = used
    assert process.returncode == 0, (out.parent / f"{out.name}.log").read_text(encoding="utf-8")
    return seconds


def kill_in(recipe: Path, out: Path, step: str, moment: float, order: list[str]) -> tuple[str, float] | None:
    """Run or resume the chain and kill it when ``step`` has worked ``moment`` CPU seconds, or is over.

    Returns:
        where it was killed, as `watch` says it; None if it ended before.
    """
    process = start(recipe, out)
    for name, used in watch(process, out):
        late = order.index(name) - order.index(step)
        if late > 0 or (late == 0 and used >= moment):
            descendants = psutil.Process(process.pid).children(recursive=True)
            process.kill()
            process.wait()
            _, alive = psutil.wait_procs(descendants, _END_SECONDS)
            assert not alive, f"still there after the chain was killed in {name}: {alive}"
            return name, used
    return None


def moments(series: int, seconds: Mapping[str, float], killed: Mapping[str, int]) -> list[tuple[str, float]]:
    """When a series is killed: at random CPU seconds of the process that begins or resumes a step."""
    rng = random.Random(series)
    return [(step, rng.uniform(0, seconds[step])) for step, times in killed.items() for _ in range(times)]


def assert_twenty_kills_change_nothing(recipe: Path, folder: Path, killed: Mapping[str, int], chains: int) -> None:
    """Run the recipe whole, and ``chains`` times with kills on the way: the same model files."""
    seconds = run_whole(recipe, folder / "whole")
    order, kills = list(seconds), []
    for series in range(chains):
        out = folder / f"killed{series}"
        kills += [kill_in(recipe, out, *moment, order) for moment in moments(series, seconds, killed)]
        rest = run_whole(recipe, out)
        assert "report" in rest
        assert models(out) == models(folder / "whole")
    assert None not in kills and len(kills) == chains * sum(killed.values()) == 20
    assert {name for name, _ in kills} >= set(killed)


@pytest.mark.slow
def test_twenty_kills_of_a_whole_chain(tmp_path):
    """Minutes of one free core: the commands of the chain start some forty times."""
    assert_twenty_kills_change_nothing(write_recipe(tmp_path), tmp_path, KILLED, chains=2)


@pytest.mark.slow
def test_twenty_kills_of_the_quick_start(tmp_path):
    """Half an hour of two free cores: it is run twice, and its commands start some thirty times."""
    assert_twenty_kills_change_nothing(QUICK_START, tmp_path, KILLED_QUICK_START, chains=1)
