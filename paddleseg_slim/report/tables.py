"""The one honest table: for a terminal (rich) and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from paddleseg_slim.report.stage import Accuracy
from paddleseg_slim.report.summary import Row, Setup, Speed, Summary, classes, fraction, human

_ANY_WIDTH = 10_000  # columns: wider than any table


def primary_name(summary: Summary) -> str:
    """Name of the number that decides, as the first stage with an accuracy gives it."""
    return next((row.stage.accuracy.primary for row in summary.rows if row.stage.accuracy), "accuracy")


def score_text(row: Row) -> tuple[str, str]:
    """The accuracy and how it differs from the base: ``0.6612``, ``-0.53 points``."""
    accuracy = row.stage.accuracy
    if accuracy is None:
        return "–", ""
    drop = row.drop
    text = f"{accuracy.score:.4f}"
    return text, "" if drop is None else ("unchanged" if abs(drop) < 0.005 else f"{-drop:+.2f} points")


def size_text(row: Row, summary: Summary) -> tuple[str, str]:
    """The size of the model file and how it differs from the base's, if both are of one format."""
    if row.size is None:
        return "–", ""
    base = summary.row(row.base.name) if row.base else None
    same = base is not None and base.size_format == row.size_format
    change = fraction(row.size, base.size) if base and same else ""
    return f"{human(row.size, 'B')}", ", ".join(filter(None, (row.size_format, change)))


def speed_text(speed: Speed | None) -> tuple[str, str]:
    """A measured time and its verdict against the base."""
    if speed is None:
        return "–", ""
    precision = "" if speed.latency.precision == "fp32" else f" {speed.latency.precision}"
    return f"{speed.latency.median_ms:.2f} ms{precision}", speed.verdict


def explanation(summary: Summary) -> str:
    """What the numbers of the table are against; of times only where there are some."""
    names = ", ".join(dict.fromkeys(row.base.name for row in summary.rows if row.base))
    said = []
    if names:
        said.append(f"Differences{' and speed-ups' if summary.setups else ''} are against {names}.")
    if summary.setups:
        said.append("Times are medians.")
    speeds = [speed for row in summary.rows for speed in row.speeds.values()]
    if any(speed.interleaved for speed in speeds):
        said.append(
            "In brackets is the 95 % confidence interval of the speed-up, from interleaved turns; one that holds 1 is "
            "no difference."
        )
    return " ".join(said)


def columns(summary: Summary) -> list[str]:
    """Headings of the table."""
    return ["stage", primary_name(summary), "params", "MACs", "model file", *map(str, summary.setups)]


def cells(row: Row, summary: Summary) -> list[tuple[str, str]]:
    """The cells of a row, each a number and, smaller, what it means against the base."""
    stage, base = row.stage, row.base
    setups: Sequence[Setup] = summary.setups
    return [
        (stage.name, f"{stage.kind} of {stage.base}" if base else stage.kind),
        score_text(row),
        (human(stage.params), fraction(stage.params, base.params if base else None)),
        (human(stage.macs), fraction(stage.macs, base.macs if base else None)),
        size_text(row, summary),
        *(speed_text(row.speeds.get(setup)) for setup in setups),
    ]


def stage_tables(summary: Summary, width: int) -> list[Table]:
    """The table for a terminal; where it is wider than ``width`` columns, one of accuracy and size, one of times."""
    headings = columns(summary)
    whole = _table(summary, range(len(headings)))
    first_time = len(headings) - len(summary.setups)
    wide = Measurement.get(Console(width=_ANY_WIDTH), Console(width=_ANY_WIDTH).options, whole).maximum > width
    if not wide or not summary.setups:
        return [whole]
    return [_table(summary, range(first_time)), _table(summary, [0, *range(first_time, len(headings))])]


def _table(summary: Summary, places: Sequence[int]) -> Table:
    """The columns at ``places``."""
    table, headings = Table(), columns(summary)
    for place in places:
        lines = headings[place].replace(", ", "\n")
        table.add_column(lines, justify="left" if place == 0 else "right", overflow="fold")
    for row in summary.rows:
        texts = cells(row, summary)
        table.add_row(
            *(
                Text.assemble(main, ("\n" + small, "dim")) if small else main
                for main, small in (texts[p] for p in places)
            )
        )
    return table


def class_rows(summary: Summary) -> list[list[str]]:
    """The accuracy of each class, one row a class, one column a stage that has them; a dash for an absent class."""
    rows = [row for row in summary.rows if row.stage.accuracy and row.stage.accuracy.per_class]
    result = [["class", *(row.stage.name for row in rows)]]
    for name in classes(rows):
        result.append([name, *(_class_value(row.stage.accuracy, name) for row in rows)])
    return result


def _class_value(accuracy: Accuracy | None, name: str) -> str:
    value = accuracy.per_class.get(name) if accuracy else None
    return "–" if value is None else f"{value:.4f}"


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table of rows of text, the first one the heading; the first column left, the others right."""
    safe = [[cell.replace("|", "\\|").replace("\n", "<br>") for cell in row] for row in rows]
    rule = [":--", *["--:"] * (len(safe[0]) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [safe[0], rule, *safe[1:]]) + "\n"
