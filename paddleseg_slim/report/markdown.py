"""The report as Markdown: its tables and commands, for a pull request or an issue."""

from __future__ import annotations

from collections.abc import Sequence

from paddleseg_slim.report.headline import Headline
from paddleseg_slim.report.removal import Removal, by_reason, lost, removals
from paddleseg_slim.report.summary import Summary, duration, warnings
from paddleseg_slim.report.tables import cells, class_rows, columns, explanation, markdown_table

NAMES = 5
"""Layers of one reason that are named."""


def render(summary: Summary, title: str, footer: str) -> str:
    """Return the report as Markdown (see `html.render`)."""
    headline = Headline.of(summary)
    rows = [columns(summary)]
    rows += [
        [" ".join(filter(None, (main, f"({small})" if small else ""))) for main, small in cells(row, summary)]
        for row in summary.rows
    ]
    parts = [f"# {title}", headline.sentence, markdown_table(rows), explanation(summary)]
    said = warnings(summary)
    if said:
        parts.append("## What to know\n\n" + "\n".join(f"- {text}" for text in said))
    per_class = class_rows(summary)
    if len(per_class) > 1:
        parts.append("## Accuracy of every class\n\n" + markdown_table(per_class))
    prunings = [_removal(removal) for removal in removals(summary)]
    if prunings:
        parts.append("## What was removed\n\n" + "\n\n".join(prunings))
    commands = "\n\n".join(
        f"{row.stage.name}{f' ({duration(row.stage.seconds)})' if row.stage.seconds else ''}:\n\n"
        f"```sh\n{row.stage.command}\n```"
        for row in summary.rows
    )
    parts += ["## How to reproduce it\n\n" + commands, footer]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def _removal(removal: Removal) -> str:
    """What was removed in short: sums, the widths that changed folded away, and layers by the reason that pins them."""
    stage = removal.stage
    against = f" against {stage.base}" if stage.base else ""
    parts = [f"{', '.join(removal.names)}{against}: " + " ".join(removal.sentences)]
    if removal.changed:
        rows = [["group", "before", "now", ""]]
        rows += [[name, str(b), str(a), lost((b, a))] for name, (b, a) in removal.changed.items()]
        parts.append(f"<details><summary>Widths that changed</summary>\n\n{markdown_table(rows)}\n</details>")
    if stage.pinned:
        layers = by_reason(stage.pinned).items()
        items = "\n".join(f"- {_few([f'`{name}`' for name in names])}: {why}" for why, names in layers)
        parts.append(f"Channels that cannot be removed:\n\n{items}")
    parts += [f"`{path.name}`: {caption}" for path, caption in removal.pictures.items()]
    return "\n\n".join(parts)


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMES} more" if len(names) > NAMES else ""
    return ", ".join(names[:NAMES]) + more
