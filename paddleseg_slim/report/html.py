"""The report as one HTML page that needs nothing else: no network, no script, pictures inside."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib import resources
from string import Template

from paddleseg_slim.report import pictures
from paddleseg_slim.report.elements import dot, image, section
from paddleseg_slim.report.headline import Headline
from paddleseg_slim.report.html_removal import removed
from paddleseg_slim.report.samples import CHANGED, Tile, overlay_colors, sample_tiles
from paddleseg_slim.report.summary import Row, Summary, classes, duration, warnings
from paddleseg_slim.report.tables import cells, class_rows, columns, explanation

MAX_SAMPLES = 8
"""Samples of one stage that are shown."""


def render(summary: Summary, title: str, footer: str) -> str:
    """Return the page.

    Args:
        summary: the table (`summary.summarize`).
        title: of the page, and its headline when there is nothing to compare.
        footer: one line at the end: who made the page.

    Raises:
        UserError: a sample named by a stage cannot be read.
    """
    headline = Headline.of(summary)
    template = Template(resources.files(__package__).joinpath("template.html").read_text(encoding="utf-8"))
    parts = [
        _cards(headline),
        _notes(summary),
        section("What every stage cost and gained", _stages(summary)),
        _drawings(summary),
        _samples(summary),
        _classes(summary),
        removed(summary),
        _curves(summary),
        _commands(summary),
        _environment(summary),
    ]
    return template.substitute(
        title=escape(title),
        headline=escape(headline.sentence or title),
        subtitle=escape(title if headline.sentence else ""),
        body="\n".join(part for part in parts if part),
        footer=escape(footer),
    )


def _cards(headline: Headline) -> str:
    cards = "".join(
        f'<div class="card"><span>{escape(name)}</span><b>{escape(value)}</b><span>{escape(detail)}</span></div>'
        for name, value, detail in headline.figures
    )
    return f'<div class="cards">{cards}</div>' if cards else ""


def _notes(summary: Summary) -> str:
    items = "".join(f"<li>{escape(text)}</li>" for text in warnings(summary))
    return section("What to know", f"<ul>{items}</ul>", "note") if items else ""


def _stages(summary: Summary) -> str:
    names = columns(summary)
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = []
    for row in summary.rows:
        tds = []
        for index, (name, (main, small)) in enumerate(zip(names, cells(row, summary))):
            mark = dot(summary, row.stage.name) if index == 0 else ""
            detail = f"<small>{escape(small)}</small>" if small else ""
            kind = ' class="none"' if main == "–" else ""
            tds.append(
                f'<td{kind} data-label="{escape(name, quote=True)}"><div>{mark}{escape(main)}{detail}</div></td>'
            )
        body.append(f"<tr>{''.join(tds)}</tr>")
    said = explanation(summary)
    return (
        f'<div class="scroll"><table class="stages"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>" + (f'<p class="soft">{escape(said)}</p>' if said else "")
    )


def _drawings(summary: Summary) -> str:
    drawings = [
        (pictures.pareto(summary), "Accuracy against latency. Up and to the left is better."),
        (pictures.latency_bars(summary), "Measured latency of every stage."),
    ]
    figures = "".join(
        f"<figure>{image(data, 'image/svg+xml', caption)}<figcaption>{escape(caption)}</figcaption></figure>"
        for data, caption in drawings
        if data
    )
    return section("Accuracy and speed", f'<div class="pair">{figures}</div>') if figures else ""


def _samples(summary: Summary) -> str:
    parts = []
    for row in summary.rows:
        shown = row.stage.samples[:MAX_SAMPLES]
        tiles = [_tiles(sample_tiles(row.folder / path)) for path in shown]
        if tiles:
            against = f" (after) against {row.stage.base} (before)" if row.stage.base else ""
            parts.append(f"<h3>{dot(summary, row.stage.name)}{escape(row.stage.name + against)}</h3>" + "".join(tiles))
    return section("Predictions before and after", _legend(summary) + "".join(parts)) if parts else ""


def _tiles(tiles: Sequence[Tile]) -> str:
    figures = "".join(
        f"<figure>{image(tile.data, tile.mime, tile.caption)}<figcaption>{escape(tile.caption)}</figcaption></figure>"
        for tile in tiles
    )
    return f'<div class="tiles">{figures}</div>'


def _legend(summary: Summary) -> str:
    names = classes(summary.rows)
    colors = overlay_colors(max(len(names), 1))
    items = [
        f'<span><i style="background:rgb{tuple(int(value) for value in color)}"></i>{escape(name)}</span>'
        for index, (name, color) in enumerate(zip(names, colors))
        if index > 0
    ]
    changed = f'<span><i style="background:rgb{CHANGED}"></i>changed pixels</span>'
    return f'<p class="legend">{"".join([*items, changed])}</p>'


def _classes(summary: Summary) -> str:
    rows = class_rows(summary)
    if len(rows) < 2:
        return ""
    head = "".join(f"<th>{escape(name)}</th>" for name in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows[1:])
    table = f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    drawing = pictures.class_dots(summary)
    figure = f"<figure>{image(drawing, 'image/svg+xml', 'Accuracy of every class')}</figure>" if drawing else ""
    return section("Accuracy of every class", f'<div class="pair">{figure}<div>{table}</div></div>')


def _curves(summary: Summary) -> str:
    drawing = pictures.learning_curves(summary)
    return section("Learning curves", image(drawing, "image/svg+xml", "Learning curves")) if drawing else ""


def _commands(summary: Summary) -> str:
    items = "".join(
        f"<p>{dot(summary, row.stage.name)}<b>{escape(row.stage.name)}</b> "
        f'<span class="soft">{_took(row)}</span></p><pre>{escape(row.stage.command)}</pre>'
        for row in summary.rows
    )
    return section("How to reproduce it", items)


def _took(row: Row) -> str:
    return f"took {duration(row.stage.seconds)}" if row.stage.seconds else ""


def _environment(summary: Summary) -> str:
    merged: dict[str, str] = {}
    for row in summary.rows:
        for key, value in row.stage.environment.items():
            text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
            merged[key] = text if merged.get(key, text) == text else f"{merged[key]}; {row.stage.name}: {text}"
    items = "".join(f"<dt>{escape(str(key))}</dt><dd>{escape(value)}</dd>" for key, value in merged.items())
    return section("Environment", f"<dl>{items}</dl>") if items else ""
