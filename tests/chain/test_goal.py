"""A recipe with a goal, for real: no try reaches it, a later one does, the first one does; nothing is made twice."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import tiny
import yaml

WEIGHTS = tiny.ROOT / "configs/fashion/weights/fastscnn_fashion5_128x128/model.safetensors"


def _try(name: str, weight_bits: int) -> dict[str, object]:
    models = ["start=@int8/float", "int8=@int8"]
    bench = {"models": models, "engine": ["onnxruntime"], "base": "start", "input_shape": [1, 3, 64, 64], "repeats": 2}
    ptq = {"name": "int8", "weight_bits": weight_bits, "batch_nums": 2, "no_bench": True}
    return {"name": name, "steps": [{"ptq": ptq}, {"bench": {**bench, "interval": 100.0, "warmup": 1}}]}


def _recipe(folder: Path) -> Path:
    """Two tries: weights of 2 bits, which ruin the model, and of 8."""
    few = {key: {**tiny.SEGMENTATION[key], "size": [64, 64]} for key in ("train_dataset", "val_dataset")}
    tiny.write_config(folder, **few)
    path = folder / "recipe.yml"
    data = {
        **{"config": "tiny.yml", "model": str(WEIGHTS), "common": {"threads": 1, "device": "cpu"}},
        "goal": {"speedup": 1000.0, "max_drop": 5.0, "engine": "onnxruntime"},
        "tries": [_try("rough", 2), _try("fine", 8)],
    }
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    return path


def _run(recipe: Path, out: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    return tiny.run("slim/compress.py", "--recipe", recipe, "--save_dir", out, *flags)


def test_not_met_then_met_by_a_later_try_then_by_the_first(tmp_path: Path) -> None:
    recipe, out = _recipe(tmp_path), tmp_path / "out"
    missed = _run(recipe, out)
    assert missed.returncode == 3, missed.stdout + missed.stderr
    assert "No try reached 1000x at 5 points lost; the best is fine: " in missed.stderr
    assert len(missed.stderr.splitlines()) == 2 and "fine-*" in missed.stderr
    steps = json.loads((out / "state.json").read_text(encoding="utf-8"))["steps"]
    assert {name: step["status"] for name, step in steps.items()} == dict.fromkeys(
        ("rough-int8", "rough-bench", "fine-int8", "fine-bench"), "done"
    )

    later = _run(recipe, out, "--resume", "--recipe_opts", "goal.speedup=0.001")
    text = later.stdout + later.stderr
    assert later.returncode == 0 and "The goal is reached by fine." in text, text
    assert text.count(": done (") == 4 and " runs: " not in text

    first = _run(recipe, out, "--resume", "--recipe_opts", "goal.speedup=0.001", "goal.max_drop=100")
    text = first.stdout + first.stderr
    assert first.returncode == 0 and "The goal is reached by rough." in text, text
    assert text.count(": done (") == 2 and "Try fine" not in text
