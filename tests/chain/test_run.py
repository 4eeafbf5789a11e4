"""Chains for real: kill -9 anywhere and resume; what a changed recipe runs again; goals."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path

import tiny
import yaml

from paddleseg_slim.files import sha256

TRAIN = {"train": {"iters": 6, "save_interval": 2, "do_eval": True}}
COMMON = {"threads": 1, "device": "cpu"}
EXPORT = {"export": {"name": "float", "input_shape": [1, 3, 32, 32]}}


def _recipe(folder: Path, steps: list, **keys) -> Path:
    tiny.write_config(folder)
    path = folder / "recipe.yml"
    data = {"config": "tiny.yml", "common": COMMON, "steps": steps, **keys}
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    return path


def _run(recipe: Path, out: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    return tiny.run("slim/compress.py", "--recipe", recipe, "--save_dir", out, *flags)


def _models(out: Path) -> dict[str, str]:
    kinds = ("*.pdparams", "*.pdiparams", "*.safetensors")
    return {path.relative_to(out).as_posix(): sha256(path) for kind in kinds for path in sorted(out.rglob(kind))}


def _killed_run(recipe: Path, out: Path, kills: int, seed: int, longest: float) -> list[float]:
    """Run, killing the chain's process at random moments; then to its end. Returns when it was killed."""
    rng, moments = random.Random(seed), []
    command = tiny.command("slim/compress.py", "--recipe", recipe, "--save_dir", out, "--resume")
    for _ in range(kills):
        process = subprocess.Popen(
            command, env=tiny.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            process.wait(rng.uniform(1.0, longest))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            moments.append(len(moments))
    done = _run(recipe, out, "--resume")
    assert done.returncode == 0, done.stdout + done.stderr
    return moments


def test_killed_and_resumed_it_gives_the_same_model_and_a_changed_recipe_runs_what_it_must(tmp_path):
    recipe = _recipe(tmp_path, [TRAIN, EXPORT, "report"])
    whole = _run(recipe, tmp_path / "whole")
    assert whole.returncode == 0, whole.stdout + whole.stderr
    assert (tmp_path / "whole" / "report.html").is_file()
    assert _killed_run(recipe, tmp_path / "killed", kills=2, seed=3, longest=9.0)
    assert _models(tmp_path / "killed") == _models(tmp_path / "whole")

    refused = _run(recipe, tmp_path / "whole")
    assert refused.returncode == 2 and "--resume" in refused.stderr

    changed = _recipe(tmp_path, [TRAIN, {"export": {**EXPORT["export"], "output_op": "softmax"}}, "report"])
    dry = _run(changed, tmp_path / "whole", "--resume", "--dry_run")
    assert dry.returncode == 0 and "output_op" in dry.stdout and "keep" in dry.stdout
    again = _run(changed, tmp_path / "whole", "--resume")
    text = again.stdout + again.stderr
    assert again.returncode == 0, text
    assert "start: done" in text and "float runs: output_op is softmax, was absent" in text

    (tmp_path / "whole" / "float" / "model.pdiparams").write_bytes(b"lost")
    text = "".join((done := _run(changed, tmp_path / "whole", "--resume")).stdout + done.stderr)
    assert "start: done" in text and "its files are not those that it wrote" in text


def test_a_step_that_fails_ends_the_chain_with_its_exit_code(tmp_path):
    recipe = _recipe(tmp_path, [{"train": {"iters": 6, "batch_size": 99}}, EXPORT, "report"])
    done = _run(recipe, tmp_path / "out")
    assert done.returncode == 2
    assert "batch of 99" in done.stderr and "The step start ended with exit code 2" in done.stderr
    state = json.loads((tmp_path / "out" / "state.json").read_text(encoding="utf-8"))
    assert state["steps"]["start"]["status"] == "running"
