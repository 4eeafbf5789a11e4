"""Pieces of HTML that the sections of the page are made of."""

from __future__ import annotations

import base64
from html import escape

from paddleseg_slim.report import pictures
from paddleseg_slim.report.summary import Summary


def section(heading: str, content: str, kind: str = "") -> str:
    """A box with a heading; empty without content."""
    return f'<section class="{kind}"><h2>{escape(heading)}</h2>\n{content}</section>' if content else ""


def details(heading: str, content: str, unfolded: bool) -> str:
    """A part that the reader folds and unfolds."""
    return f"<details{' open' if unfolded else ''}><summary>{escape(heading)}</summary>\n{content}</details>"


def image(data: bytes, mime: str, alt: str) -> str:
    """A picture that is part of the page."""
    return f'<img alt="{escape(alt, quote=True)}" src="data:{mime};base64,{base64.b64encode(data).decode("ascii")}">'


def dot(summary: Summary, name: str) -> str:
    """The mark of a stage, in its colour."""
    return f'<span class="dot" style="background:{pictures.stage_color(summary, name)}"></span>'
