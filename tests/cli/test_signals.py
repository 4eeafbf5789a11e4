"""A command that is asked to end by a signal ends."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import argparse
import os
import signal
from pathlib import Path

from paddleseg_slim.cli import setup

setup.start(argparse.Namespace(device="cpu"))
print(Path("/proc/self/status").read_text(), flush=True)
os.kill(os.getpid(), signal.SIGTERM)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc")
def test_sigterm_ends_a_command_without_a_handler_of_paddle() -> None:
    """Paddle's looks at the stack first, for which it needs locks that may be held."""
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGTERM, done.stderr
    caught = re.search(r"SigCgt:\s*(\w+)", done.stdout)
    assert caught and not int(caught[1], 16) >> (signal.SIGTERM - 1) & 1
