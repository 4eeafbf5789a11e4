"""The report as Markdown: its tables and commands, for a pull request or an issue."""

from __future__ import annotations

from paddleseg_slim.report.headline import Headline
from paddleseg_slim.report.summary import Summary, duration, warnings
from paddleseg_slim.report.tables import cells, class_rows, columns, explanation, markdown_table


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
    commands = "\n\n".join(
        f"{row.stage.name}{f' ({duration(row.stage.seconds)})' if row.stage.seconds else ''}:\n\n"
        f"```sh\n{row.stage.command}\n```"
        for row in summary.rows
    )
    parts += ["## How to reproduce it\n\n" + commands, footer]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"
