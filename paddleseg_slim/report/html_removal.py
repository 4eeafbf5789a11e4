"""The section of the page on what was removed of a model, and why the rest stays."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from paddleseg_slim.errors import UserError
from paddleseg_slim.report.elements import details, dot, image, section
from paddleseg_slim.report.removal import Removal, lost, removals
from paddleseg_slim.report.summary import Summary

OPEN_GROUPS = 40
"""A table of at most so many groups is unfolded, and so is the picture of them."""

_MIMES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg"}


def removed(summary: Summary) -> str:
    """The section; empty where no channels were removed.

    Raises:
        UserError: a picture named by a stage has another format.
    """
    return section("What was removed", "".join(_removal(summary, removal) for removal in removals(summary)))


def _removal(summary: Summary, removal: Removal) -> str:
    stage, few = removal.stage, len(removal.stage.widths) <= OPEN_GROUPS
    names = ", ".join(f"{dot(summary, name)}{escape(name)}" for name in removal.names)
    against = f" against {escape(stage.base)}" if stage.base else ""
    parts = [f"<h3>{names}{against}</h3>", *(f"<p>{escape(text)}</p>" for text in removal.sentences)]
    if stage.widths:
        parts.append(details(f"The {len(stage.widths)} channel groups and their widths", _widths(removal), few))
    if stage.pinned:
        heading = f"Layers with channels that cannot be removed: {len(stage.pinned)}"
        parts.append(details(heading, _pinned(removal), few and len(stage.pinned) <= OPEN_GROUPS))
    parts += [details(path.name, _picture(path, caption), few) for path, caption in removal.pictures.items()]
    return "".join(parts)


def _widths(removal: Removal) -> str:
    rows = []
    for name, (before, after) in removal.stage.widths.items():
        left = f'<div class="bar"><i style="width:{100 * after / before:.1f}%"></i></div>'
        why = removal.stage.untouched.get(name, "")
        rows.append((escape(name), str(before), str(after), lost((before, after)), left, escape(why)))
    return _table(("group", "before", "now", "", "what stays", "why nothing went"), rows)


def _pinned(removal: Removal) -> str:
    return _table(("layer", "why"), [(escape(name), escape(why)) for name, why in removal.stage.pinned.items()])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells in HTML."""
    cells = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        f'<div class="scroll"><table class="removed"><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _picture(path: Path, caption: str) -> str:
    if not path.is_file():
        return f'<p class="soft">{escape(caption)} The file is missing: {escape(path.name)}.</p>'
    if path.suffix.lower() not in _MIMES:
        raise UserError(f"The picture {path} cannot be shown.", f"Give one of {', '.join(_MIMES)} in stage.json.")
    picture = image(path.read_bytes(), _MIMES[path.suffix.lower()], caption)
    return f"<figure>{picture}<figcaption>{escape(caption)}</figcaption></figure>"
