"""Data-parallel training: two processes equal one with the double batch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import ROOT, environment, write_config

from paddleseg_slim.train.logging import read_curves
from paddleseg_slim.train.pdparams import read_arrays

SCRIPT = ROOT / "tests/train/frozen_net.py"


def start(launcher: list[str], config: Path, out: Path, batch_size: int) -> None:
    flags = ["--config", config, "--save_dir", out, "--batch_size", batch_size, "--do_eval", "--save_interval", 3]
    done = subprocess.run(
        [sys.executable, *launcher, str(SCRIPT), *map(str, flags), "--log_iters", "1", "--threads", "1"],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="Paddle launches CPU processes on Linux")
def test_two_processes_equal_one_with_the_double_batch(tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "model": {"type": "FrozenNet"},
        "loss": {"types": [{"type": "CrossEntropyLoss"}], "coef": [1]},
    }
    config = write_config(tmp_path, **changes)
    start([], config, tmp_path / "one", 4)
    launch = ["-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--log_dir", str(tmp_path / "log")]
    start(launch, config, tmp_path / "two", 2)
    one, two = read_curves(tmp_path / "one"), read_curves(tmp_path / "two")
    for tag in ("Train/loss", "Train/lr", "Evaluate/mIoU"):
        assert np.allclose(one[tag], two[tag], rtol=1e-5), tag
    assert len(two["Train/loss"]) == 6
    single, double = (read_arrays(tmp_path / name / "iter_6/model.pdparams") for name in ("one", "two"))
    assert all(np.allclose(single[name], double[name], atol=1e-6) for name in single)
    assert json.loads((tmp_path / "two/iter_6/manifest.json").read_text())["settings"]["world_size"] == 2
