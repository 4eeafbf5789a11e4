"""The errors that end a command, and the exit code each one means.

Every message is one line of cause and one line of remedy. Anything that is not one of these classes is a fault of
ours: exit code 1, and the traceback with ``--debug``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SlimError(Exception):
    """Base of the errors that a command reports without a traceback.

    Args:
        cause: one line: what is wrong, with the names and numbers at hand.
        remedy: one line: what the user can do about it.
    """

    exit_code = 1

    def __init__(self, cause: str, remedy: str) -> None:
        super().__init__(f"{cause}\n{remedy}")
        self.cause = cause
        self.remedy = remedy


class UserError(SlimError):
    """What the user gave cannot work: a path, an option, a config, data, a missing engine. Exit code 2."""

    exit_code = 2


class GoalNotMet(SlimError):
    """Everything ran, but the goal asked for (a budget, an accuracy limit) was not reached. Exit code 3."""

    exit_code = 3


class TrainingDiverged(SlimError):
    """The loss became NaN or infinite; the last good checkpoint was kept. Exit code 1."""


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """Return a phrase that names the known names most like ``name``, for the remedy line of an error."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=count, cutoff=0.4) or names[:count]
    return ("Did you mean " + ", ".join(close) + "?") if close else "No name is known here."
