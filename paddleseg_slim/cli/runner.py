"""Run one verb: parse, call, and turn what goes wrong into one line of cause, one of remedy and an exit code."""

from __future__ import annotations

import argparse
import errno
import importlib
import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Collection, Sequence
from typing import NoReturn

from paddleseg_slim.errors import SlimError, UserError, nearest

INTERRUPTED = 130
_NOISE = ("No ccache found", "When training, we now always track global mean")
"""Warnings of Paddle at every start, which tell the user nothing."""

_FULL = (errno.ENOSPC, errno.EFBIG, *([errno.EDQUOT] if hasattr(errno, "EDQUOT") else []))
"""What writing fails with when a disk, a quota or a limit is full."""

_INSTALL = "Install what is needed: pip install '.[cpu,onnx]' in the root of the repository (see its README)."

SUPPORTED_PYTHON = ((3, 9), (3, 14))
"""Lowest supported version, and the first that is too new."""

_MEMORY_SIGNS = ("ResourceExhausted", "Out of memory", "out of memory", "bad_alloc", "Cannot allocate memory")


def module_name(verb: str) -> str:
    """Module of a verb."""
    return f"paddleseg_slim.cli.{verb.replace('-', '_')}"


def main(verb: str, argv: Sequence[str] | None = None) -> int:
    """Run ``verb`` with the arguments ``argv`` (the process's own when None) and return the exit code."""
    problem = python_problem(sys.version_info[:2])
    if problem:
        return _say(*problem, 2)
    os.environ.setdefault("GLOG_minloglevel", "2")  # of Paddle's C++: notes on its own inner workings, on stderr
    for message in _NOISE:
        warnings.filterwarnings("ignore", message=message)
    given = list(sys.argv[1:] if argv is None else argv)
    prog = f"paddleseg-slim {verb}" if argv is not None else None
    return guarded(lambda: _run(verb, given, prog), debug="--debug" in given)


def _run(verb: str, given: list[str], prog: str | None) -> int:
    """Parse and call; ``prog``: what messages call the command."""
    module = importlib.import_module(module_name(verb))
    parser = Parser(prog=prog, description=module.HELP, allow_abbrev=False)
    module.add_arguments(parser)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    args = parser.parse_args(given)
    try:
        return int(module.run(args))
    except KeyboardInterrupt:
        return _say("Interrupted.", f"What was saved so far is whole{_goes_on(parser)}.", INTERRUPTED)


def _goes_on(parser: Parser) -> str:
    """How a command that was ended goes on."""
    flag = next((name for name in ("--resume", "--resume_model") if name in parser.option_strings), None)
    return f"; it goes on with {flag}" if flag else ""


def python_problem(version: tuple[int, int]) -> tuple[str, str] | None:
    """Cause and remedy if this package does not run on the Python ``version``."""
    low, high = (".".join(map(str, bound)) for bound in (SUPPORTED_PYTHON[0], (3, SUPPORTED_PYTHON[1][1] - 1)))
    if SUPPORTED_PYTHON[0] <= version < SUPPORTED_PYTHON[1]:
        return None
    return f"Python {version[0]}.{version[1]} is not supported.", f"Use Python {low} to {high}."


class Parser(argparse.ArgumentParser):
    """A parser that says what is wrong in a line of cause and a line of remedy, without the whole usage."""

    @property
    def option_strings(self) -> Collection[str]:
        """All flags."""
        return self._option_string_actions.keys()

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong.

        Raises:
            UserError: always; its remedy is the nearest option, and how to see them all.
        """
        unknown = re.match(r"unrecognized arguments: (-[^\s=]+)", message)
        hint = f"{nearest(unknown[1], self.option_strings)} " if unknown else ""
        raise UserError(f"{message[:1].upper()}{message[1:]}.", f"{hint}`{self.prog} --help` says what there is.")


def guarded(action: Callable[[], int], *, debug: bool = False) -> int:
    """Call ``action`` and return its exit code, or that of the error it ends with; messages go to standard error."""
    try:
        return action()
    except SlimError as error:
        if debug:
            traceback.print_exc()
        return _say(error.cause, error.remedy, error.exit_code)
    except KeyboardInterrupt:
        return _say("Interrupted.", "What was saved so far is whole.", INTERRUPTED)
    except Exception as error:
        if debug:
            traceback.print_exc()
        return _say(*_explained(error))


def _explained(error: Exception) -> tuple[str, str, int]:
    """Cause, remedy and exit code of an error that is none of ours."""
    if isinstance(error, ModuleNotFoundError) and not str(error.name).startswith("paddleseg_slim"):
        return f"The Python package {error.name} is not installed.", _INSTALL, 2
    if (isinstance(error, OSError) and error.errno in _FULL) or os.strerror(errno.ENOSPC) in str(error):
        kept = "Make room there; what was saved before is whole, and goes on with --resume or --resume_model."
        file = getattr(error, "filename", None) or "a file"
        return f"Writing {file} failed: {getattr(error, 'strerror', None) or os.strerror(errno.ENOSPC)}.", kept, 1
    if isinstance(error, MemoryError) or any(sign in str(error) for sign in _MEMORY_SIGNS):
        return "There is not enough memory.", "Lower --batch_size, or the size of the images or crops.", 1
    text = " ".join(str(error).split())[:300]
    return f"Internal error: {type(error).__name__}: {text}", "Run it with --debug and report the traceback.", 1


def log(message: str, *values: object) -> None:
    """Write a line to the log."""
    logging.getLogger("paddleseg_slim.cli").info(message, *values)


def _say(cause: str, remedy: str, code: int) -> int:
    cause, remedy = (" ".join(text.split()) for text in (cause, remedy))  # what Paddle says has lines of its own
    sys.stdout.flush()
    sys.stderr.write(f"Error: {cause}\n{remedy}\n")
    return code
