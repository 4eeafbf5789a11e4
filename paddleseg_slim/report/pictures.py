"""The drawings of a report: accuracy against latency, latency bars, accuracy by class, learning curves. All are SVG."""

from __future__ import annotations

import io
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from paddleseg_slim.report.summary import Row, Setup, Speed, Summary, classes
from paddleseg_slim.report.tables import primary_name

COLORS = ("#1f5f99", "#d9730d", "#3d8f5f", "#8a4fa3", "#b8324a", "#5c6b73", "#b59410", "#17829b")
"""A colour for each stage, in order; it starts anew when there are more."""

_MARKERS = ("o", "s", "^", "D", "v", "P")
_STYLE: dict[Any, Any] = {
    "font.size": 12.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8895a0",
    "axes.labelcolor": "#33424d",
    "xtick.color": "#33424d",
    "ytick.color": "#33424d",
    "axes.grid": True,
    "grid.color": "#e3e8ec",
    "axes.axisbelow": True,
    "svg.hashsalt": "paddleseg_slim",
}


def stage_color(summary: Summary, name: str) -> str:
    """The colour of a stage in all drawings and on the page."""
    names = [row.stage.name for row in summary.rows]
    return COLORS[names.index(name) % len(COLORS)]


def _svg(figure: Figure) -> bytes:
    """The drawing as SVG; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None}, facecolor="white")
    return buffer.getvalue()


def _space(figure: Figure) -> None:
    """Keep the panels of a figure apart."""
    engine: Any = figure.get_layout_engine()
    engine.set(hspace=0.08)


def pareto(summary: Summary) -> bytes | None:
    """Accuracy against latency, a panel a setup, the frontier as a line: what is below and right of it is beaten.

    None when no stage has both.
    """
    panels = [(setup, _points(summary, setup)) for setup in summary.setups]
    panels = [(setup, points) for setup, points in panels if points]
    if not panels:
        return None
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(6.4, 4.0 * len(panels)), layout="constrained")
        for axes, (setup, points) in zip(figure.subplots(len(panels), 1, squeeze=False)[:, 0], panels):
            _draw_pareto(axes, summary, setup, points)
        _space(figure)
        return _svg(figure)


def _points(summary: Summary, setup: Setup) -> list[tuple[Row, float, float]]:
    return [
        (row, row.speeds[setup].latency.median_ms, row.stage.accuracy.score)
        for row in summary.rows
        if setup in row.speeds and row.stage.accuracy
    ]


def _draw_pareto(axes: Axes, summary: Summary, setup: Setup, points: list[tuple[Row, float, float]]) -> None:
    frontier, best = [], -1.0
    for _, ms, score in sorted(points, key=lambda point: (point[1], -point[2])):
        if score > best:
            frontier.append((ms, score))
            best = score
    axes.step(*zip(*frontier), where="post", color="#b4bec6", linewidth=1.5, zorder=1)
    for index, (row, ms, score) in enumerate(points):
        name = row.stage.name
        axes.scatter(
            ms, score, s=70, color=stage_color(summary, name), marker=_MARKERS[index % len(_MARKERS)], zorder=3
        )
        axes.annotate(name, (ms, score), xytext=(7, 6), textcoords="offset points", fontsize=11.5, zorder=4)
    axes.margins(0.22)
    axes.set_xlabel("median milliseconds a run (less is better)")
    axes.set_ylabel(f"{primary_name(summary)} (more is better)")
    axes.set_title(str(setup), fontsize=12.5, loc="left", color="#33424d")


def latency_bars(summary: Summary) -> bytes | None:
    """Median latency of every stage, a panel a setup, with the 90th percentile as a line; None without times."""
    panels = [(s, [(r, r.speeds[s]) for r in summary.rows if s in r.speeds]) for s in summary.setups]
    if not panels:
        return None
    heights = [1.1 + 0.48 * len(rows) for _, rows in panels]
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(6.4, sum(heights)), layout="constrained")
        all_axes = figure.subplots(len(panels), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
        for axes, (setup, rows) in zip(all_axes, panels):
            _draw_bars(axes, summary, setup, rows)
        _space(figure)
        all_axes[-1].set_xlabel("milliseconds a run: median (bar), 90th percentile (line)")
        return _svg(figure)


def _draw_bars(axes: Axes, summary: Summary, setup: Setup, rows: list[tuple[Row, Speed]]) -> None:
    for place, (row, speed) in enumerate(rows):
        latency = speed.latency
        axes.barh(place, latency.median_ms, color=stage_color(summary, row.stage.name), height=0.62)
        axes.plot([latency.median_ms, latency.p90_ms], [place, place], color="#33424d", linewidth=1.4)
        text = f"{latency.median_ms:.2f} ms" + (f"   {speed.verdict}" if speed.interleaved else "")
        axes.annotate(
            text,
            (max(latency.median_ms, latency.p90_ms), place),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=11,
        )
    axes.set_yticks(range(len(rows)), [row.stage.name for row, _ in rows])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlim(0, 1.9 * max(max(speed.latency.median_ms, speed.latency.p90_ms) for _, speed in rows))
    axes.set_title(str(setup), fontsize=12.5, loc="left", color="#33424d")


def class_dots(summary: Summary) -> bytes | None:
    """Accuracy of every class, one dot a stage; None when no stage has it. An absent class has no dot."""
    rows = [row for row in summary.rows if row.stage.accuracy and row.stage.accuracy.per_class]
    names = classes(rows)
    if not names:
        return None
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(6.4, 1.4 + 0.4 * len(names)), layout="constrained")
        axes = figure.subplots()
        for place, name in enumerate(names):
            values = [row.stage.accuracy.per_class.get(name) for row in rows if row.stage.accuracy]
            known = [value for value in values if value is not None]
            if known:
                axes.plot([min(known), max(known)], [place, place], color="#ccd4da", linewidth=3, zorder=1)
        for index, row in enumerate(rows):
            per_class = row.stage.accuracy.per_class if row.stage.accuracy else {}
            dots = [(value, place) for place, name in enumerate(names) if (value := per_class.get(name)) is not None]
            axes.scatter(
                [value for value, _ in dots],
                [place for _, place in dots],
                color=stage_color(summary, row.stage.name),
                s=42,
                marker=_MARKERS[index % len(_MARKERS)],
                label=row.stage.name,
                zorder=3,
                alpha=0.9,
            )
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set_xlabel(f"{primary_name(summary)} of the class")
        axes.legend(
            fontsize=11.5, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=min(len(rows), 4)
        )
        return _svg(figure)


def learning_curves(summary: Summary) -> bytes | None:
    """The curves of the stages, a panel a name (``loss``, ``mIoU``), a line a stage; None when there are none."""
    names: dict[str, None] = {}
    for row in summary.rows:
        names.update(dict.fromkeys(name for name, points in row.stage.curves.items() if points))
    if not names:
        return None
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(6.4, 2.8 * len(names)), layout="constrained")
        for axes, name in zip(figure.subplots(len(names), 1, squeeze=False)[:, 0], names):
            for row in summary.rows:
                _draw_curve(axes, row, name, stage_color(summary, row.stage.name))
            axes.set_ylabel(name)
            axes.legend(fontsize=11, frameon=False)
        axes.set_xlabel("training step")
        return _svg(figure)


def _draw_curve(axes: Any, row: Row, name: str, color: str) -> None:
    points = row.stage.curves.get(name)
    if points:
        steps, values = zip(*points)
        marker = "o" if len(points) < 30 else None
        axes.plot(steps, values, color=color, linewidth=1.5, label=row.stage.name, marker=marker, markersize=3)
