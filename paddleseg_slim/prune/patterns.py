"""Regular expressions by which the user names layers."""

from __future__ import annotations

import re

from paddleseg_slim.errors import UserError, nearest
from paddleseg_slim.graph import Graph


def compiled(pattern: str) -> re.Pattern[str]:
    """The expression.

    Raises:
        UserError: it is malformed.
    """
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UserError(f"{pattern!r} is no regular expression: {error}.", "Correct it.") from error


def no_match(pattern: str, graph: Graph) -> UserError:
    """The error for an expression that matches nothing; the remedy has the nearest names."""
    return UserError(f"{pattern!r} matches no layer.", nearest(pattern, [n.name for n in graph.nodes if n.name]))
