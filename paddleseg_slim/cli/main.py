"""``paddleseg-slim VERB ...``: the verbs, each a module that is imported when it is called."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence

from paddleseg_slim.cli import runner
from paddleseg_slim.errors import nearest
from paddleseg_slim.version import __version__

VERBS = (
    "train",
    "val",
    "compare",
    "predict",
    "export",
    "prune",
    "quant",
    "post_quant",
    "distill",
    "compress",
    "bench",
    "profile",
    "eval",
    "infer",
    "test_seg",
    "report",
    "inspect",
    "groups",
    "check-data",
    "doctor",
)
"""Verbs in the order of a project; the module of ``check-data`` is ``cli/check_data.py``."""


def available() -> list[str]:
    """The verbs whose module is installed."""
    return [verb for verb in VERBS if importlib.util.find_spec(runner.module_name(verb)) is not None]


def usage() -> str:
    """The list of verbs."""
    lines = ["usage: paddleseg-slim VERB [--help] ...", "", "verbs:"]
    for verb in available():
        lines.append(f"  {verb:<12} {importlib.import_module(runner.module_name(verb)).HELP}")
    return "\n".join(lines)


def _print_usage() -> int:
    sys.stdout.write(usage() + "\n")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code: 0, 1 internal fault, 2 wrong input, 3 goal not met."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        return runner.guarded(_print_usage)
    if arguments[0] == "--version":
        sys.stdout.write(f"paddleseg_slim {__version__}\n")
        return 0
    verb = arguments[0]
    if verb not in available():
        sys.stderr.write(f"Error: Unknown verb {verb!r}.\n{nearest(verb, available())}\n")
        return 2
    return runner.main(verb, arguments[1:])


if __name__ == "__main__":
    sys.exit(main())
