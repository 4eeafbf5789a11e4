"""Sums over processes, one of which is late."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from paddleseg_slim.train import ranks

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import sys, time
sys.path.insert(0, {root!r})
import numpy as np, paddle
from paddleseg_slim.train import ranks
paddle.set_device("cpu")
paddle.distributed.init_parallel_env()
rank = paddle.distributed.get_rank()
time.sleep(35 * rank)  # Gloo waits for thirty seconds
counts = ranks.total(np.array([[rank + 1, 2**40]]))
assert counts.dtype == np.int64 and counts.tolist() == [[3, 2**41]], counts
assert ranks.total(np.array([0.5])).tolist() == [1.0]
"""


def test_one_process_waits_for_nobody() -> None:
    array = np.array([1.5, 2.0])
    assert ranks.total(array) is array
    ranks.meet()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Paddle launches CPU processes on Linux")
def test_a_process_may_be_later_than_gloo_waits(tmp_path: Path) -> None:
    script = tmp_path / "late.py"
    script.write_text(SCRIPT.format(root=str(ROOT)))
    launch = ["-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--log_dir", str(tmp_path / "log")]
    done = subprocess.run([sys.executable, *launch, str(script)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
