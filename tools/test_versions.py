"""Run the tests that touch Paddle's private parts on several versions of Paddle and Python, and print what passed.

    python tools/test_versions.py --folder ~/venvs
    python tools/test_versions.py --folder ~/venvs --paddle 3.3.1 --python python3.9 python3.13

Every pair gets a virtual environment of its own in the folder, with this checkout in it as `pip install -e` does; one
that is there already is brought up to date. A pair whose packages cannot be installed is a failure as well. What the
tests print is in ``<folder>/<pair>.txt``. The table is Markdown, the one of `docs/support.md`.
"""

from __future__ import annotations

import argparse
import datetime
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
PADDLES = ("3.1.1", "3.2.2", "3.3.1")
TESTS = (
    "tests/graph",
    "tests/models/test_models.py",
    "tests/train/test_optim.py",
    "tests/train/test_pdparams.py",
    "tests/train/test_loop.py",
)
TOOLS = ("pytest>=8.0", "pytest-timeout>=2.3")
COUNTS = ("passed", "failed", "skipped")


@dataclass(frozen=True)
class Result:
    """What came out for one pair of versions."""

    paddle: str
    python: str
    counts: dict[str, int]
    """Number of tests by `COUNTS`; empty when the tests did not get to run."""
    seconds: float
    note: str
    """Why it is a failure; empty when all passed."""

    def row(self) -> str:
        """The row of the table."""
        counts = [str(self.counts.get(name, "-")) for name in COUNTS]
        return f"| {' | '.join([self.paddle, self.python, *counts, f'{self.seconds:.0f}', self.note or 'passed'])} |"


def version_of(python: str) -> str:
    """``"python3.9"`` -> ``"3.9.18"``."""
    code = "import platform; print(platform.python_version())"
    return subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def prepare(folder: Path, python: str, paddle: str) -> Path:
    """Make the environment, or bring it up to date, and return its interpreter.

    Raises:
        subprocess.CalledProcessError: the packages cannot be installed; its ``stderr`` says why.
    """
    own = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not own.is_file():
        subprocess.run([python, "-m", "venv", str(folder)], check=True, capture_output=True, text=True)
    install = [str(own), "-m", "pip", "install", "--quiet", "--no-compile", "--disable-pip-version-check"]
    wanted = ["-e", f"{ROOT}[cpu,onnx]", f"paddlepaddle=={paddle}", *TOOLS]
    subprocess.run([*install, *wanted], check=True, capture_output=True, text=True)
    return own


def count(report: Path) -> dict[str, int]:
    """Counts of a JUnit report by `COUNTS`; an error while collecting or setting up counts as failed."""
    suite = next(ElementTree.parse(report).iter("testsuite"))
    total, failed, skipped = (int(suite.attrib[name]) for name in ("tests", "failures", "skipped"))
    failed += int(suite.attrib["errors"])
    return {"passed": total - failed - skipped, "failed": failed, "skipped": skipped}


def run(folder: Path, python: str, paddle: str, tests: list[str], marks: str) -> Result:
    """Install one pair and run the tests with it."""
    version, start = version_of(python), time.monotonic()
    name = f"paddle-{paddle}-python-{version}"
    report = folder / f"{name}.xml"
    report.unlink(missing_ok=True)

    def result(counts: dict[str, int], note: str) -> Result:
        return Result(paddle, version, counts, time.monotonic() - start, note)

    try:
        own = prepare(folder / name, python, paddle)
    except subprocess.CalledProcessError as error:
        (folder / f"{name}.txt").write_text(error.stderr, encoding="utf-8")
        return result({}, f"cannot be installed, see {name}.txt")
    command = [str(own), "-m", "pytest", "-q", "-m", marks, "-p", "no:cacheprovider", f"--junitxml={report}", *tests]
    with (folder / f"{name}.txt").open("w", encoding="utf-8") as output:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        code = subprocess.run(command, cwd=ROOT, stdout=output, stderr=output, env=environment, check=False).returncode
    if not report.is_file():
        return result({}, f"pytest ended with {code}, see {name}.txt")
    return result(count(report), "" if code == 0 else f"failed, see {name}.txt")


def main() -> int:
    """Run every pair, print the table; 1 when one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where the environments are kept, 2 GB each")
    parser.add_argument("--paddle", nargs="+", default=PADDLES, help="versions of Paddle (%(default)s)")
    parser.add_argument("--python", nargs="+", default=[sys.executable], help="interpreters (the running one)")
    parser.add_argument("--tests", nargs="+", default=TESTS, help="what pytest runs (%(default)s)")
    parser.add_argument("--marks", default="not slow", help="marks of the tests, as pytest's -m (%(default)s)")
    args = parser.parse_args()
    folder = args.folder.expanduser().resolve()
    folder.mkdir(parents=True, exist_ok=True)
    print(f"{datetime.date.today()}, {sys.platform}, pytest -m '{args.marks}' {' '.join(args.tests)}\n")
    print("| Paddle | Python | passed | failed | skipped | seconds | |\n|---|---|---|---|---|---|---|")
    failed = 0
    for python in args.python:
        for paddle in args.paddle:
            outcome = run(folder, python, paddle, args.tests, args.marks)
            print(outcome.row(), flush=True)
            failed += bool(outcome.note)
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
