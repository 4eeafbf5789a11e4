"""A command that is asked to end by a signal ends."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from paddle import nn

from paddleseg_slim.cli import runner
from paddleseg_slim.graph import export_inference
from tests.prune.matrix import captured

COMMAND = """
import argparse
from paddleseg_slim.cli import setup

setup.start(argparse.Namespace(device="cpu"))
"""

RUNTIME = """
import sys
import numpy as np
from paddleseg_slim.deploy.runtimes import RuntimeOptions, load

load(sys.argv[1], "paddle", RuntimeOptions(threads=1))(np.zeros((1, 3, 8, 8), "float32"))
"""

ENDS = """
import os
import signal
from pathlib import Path

print(Path("/proc/self/status").read_text(), flush=True)
os.kill(os.getpid(), signal.SIGTERM)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc")
@pytest.mark.parametrize("code", [COMMAND, RUNTIME], ids=["command", "runtime"])
def test_sigterm_ends_a_process_without_a_handler_of_paddle(code: str, tmp_path: Path) -> None:
    """Paddle's looks at the stack first, for which it needs locks that may be held."""
    layer = captured(nn.Conv2D(3, 4, 3))
    export_inference(layer, tmp_path / "model")
    command = [sys.executable, "-c", code + ENDS, str(tmp_path / "model.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGTERM, done.stderr
    caught = re.search(r"SigCgt:\s*(\w+)", done.stdout)
    assert caught and not int(caught[1], 16) >> (signal.SIGTERM - 1) & 1


@pytest.mark.parametrize(
    ("verb", "flags", "remedy"),
    [
        ("prune", ["--config", "x", "--retraining_iters", "1"], "it goes on with --resume."),
        ("train", ["--config", "x"], "it goes on with --resume_model."),
        ("report", ["x"], "What was saved so far is whole."),
    ],
)
def test_an_interrupted_command_says_how_it_goes_on(
    verb: str, flags: list[str], remedy: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(args: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"paddleseg_slim.cli.{verb}.run", interrupted)
    assert runner.main(verb, flags) == runner.INTERRUPTED
    assert capsys.readouterr().err.strip().endswith(remedy)
