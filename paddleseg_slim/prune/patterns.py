"""Regular expressions by which the user names layers."""

from __future__ import annotations

import re
from collections.abc import Iterable

from paddleseg_slim.errors import UserError, nearest


def compiled(pattern: str) -> re.Pattern[str]:
    """The expression.

    Raises:
        UserError: it is malformed.
    """
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UserError(f"{pattern!r} is no regular expression: {error}.", "Correct it.") from error


def no_match(pattern: str, names: Iterable[str]) -> UserError:
    """The error for an expression that matches none of these names; the remedy has the nearest ones."""
    return UserError(f"{pattern!r} matches no layer.", nearest(pattern, names))
