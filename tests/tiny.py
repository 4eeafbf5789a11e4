"""A config that trains in a second, and how tests start the real commands."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]


def _scenes(mode: str, count: int) -> dict[str, Any]:
    flip = [{"type": "RandomHorizontalFlip"}] if mode == "train" else []
    return {
        "type": "FashionScenes",
        "mode": mode,
        "label_set": "fashion5",
        "num_samples": count,
        "size": [32, 32],
        "transforms": [*flip, {"type": "Normalize"}],
    }


SEGMENTATION: dict[str, Any] = {
    "batch_size": 2,
    "iters": 6,
    "train_dataset": _scenes("train", 8),
    "val_dataset": _scenes("val", 4),
    "optimizer": {"type": "SGD", "momentum": 0.9, "weight_decay": 4.0e-5},
    "lr_scheduler": {
        "type": "PolynomialDecay",
        "learning_rate": 0.02,
        "end_lr": 0,
        "power": 0.9,
        "warmup_iters": 2,
        "warmup_start_lr": 0.001,
    },
    "loss": {"types": [{"type": "CrossEntropyLoss"}], "coef": [1.0, 0.4]},
    "model": {"type": "FastSCNN"},
}

CLASSIFICATION: dict[str, Any] = {
    "task": "classification",
    "batch_size": 4,
    "iters": 4,
    "train_dataset": {
        "type": "FashionGarments",
        "mode": "train",
        "num_samples": 16,
        "transforms": [{"type": "Normalize"}],
    },
    "val_dataset": {"type": "FashionGarments", "mode": "val", "num_samples": 8, "transforms": [{"type": "Normalize"}]},
    "optimizer": {"type": "Adam"},
    "lr_scheduler": {"type": "CosineAnnealingDecay", "learning_rate": 0.001},
    "loss": {"types": [{"type": "CrossEntropyLoss"}], "coef": [1]},
    "model": {"type": "mobilenet_v2", "scale": 0.25},
}


def write_config(folder: Path, base: dict[str, Any] | None = None, **changes: Any) -> Path:
    """Write a config; a change replaces a top-level section."""
    path = folder / "tiny.yml"
    path.write_text(yaml.safe_dump({**copy.deepcopy(base or SEGMENTATION), **changes}), encoding="utf-8")
    return path


def command(script: str, *args: object) -> list[str]:
    """The command line of a root script."""
    return [sys.executable, str(ROOT / script), *map(str, args)]


def environment() -> dict[str, str]:
    """One thread, and nothing of this checkout on the path: the script has to find the package itself."""
    inherited = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return {**inherited, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}


def run(script: str, *args: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a root script to its end."""
    return subprocess.run(
        command(script, *args),
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**environment(), **options.pop("env", {})},
        timeout=options.pop("timeout", 300),
        **options,
    )
