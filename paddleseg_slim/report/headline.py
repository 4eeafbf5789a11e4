"""What a run reached, in one sentence and a few large figures."""

from __future__ import annotations

from dataclasses import dataclass

from paddleseg_slim.report.stage import Stage
from paddleseg_slim.report.summary import Row, Setup, Speed, Summary, human


@dataclass(frozen=True)
class Headline:
    """The result of a run at a glance.

    Attributes:
        sentence: ``4.0x smaller and 1.80x faster at 0.4 points less mIoU``; empty when nothing was compared.
        figures: (name, value, detail) of what is shown large.
    """

    sentence: str
    figures: tuple[tuple[str, str, str], ...]

    @classmethod
    def of(cls, summary: Summary) -> Headline:
        """Compare the best compressed stage of a run with what it began with.

        The stage is the last in the table that was measured in an engine, else the last with an accuracy.
        """
        first = summary.first
        others = [row for row in summary.rows[1:] if row.base is not None]
        measured = [row for row in others if _against_first(row, first)] or [
            row for row in others if row.stage.accuracy
        ]
        if not measured:
            return cls("", ())
        last = measured[-1]
        parts, figures = [], []
        for part, figure in (_speed(last, first), _size(last, first)):
            parts += [part] if part else []
            figures += [figure] if figure else []
        accuracy, figure = _accuracy(last.stage, first.stage)
        figures += [figure] if figure else []
        macs = _macs(last.stage, first.stage)
        figures += [macs] if macs else []
        sentence = " and ".join(parts) + (f", {accuracy}" if parts and accuracy else accuracy)
        return cls(f"{first.stage.name} → {last.stage.name}: {sentence}" if sentence else "", tuple(figures))


def _against_first(row: Row, first: Row) -> dict[Setup, Speed]:
    """The times whose ratio is against the first stage, from one interleaved run."""
    return {setup: speed for setup, speed in row.speeds.items() if speed.interleaved and speed.base == first.stage.name}


Figure = tuple[str, str, str]


def _speed(last: Row, first: Row) -> tuple[str, Figure | None]:
    speeds = {setup: speed for setup, speed in _against_first(last, first).items() if speed.ratio is not None}
    if not speeds:
        return "", None
    setup = min(speeds, key=lambda key: speeds[key].latency.median_ms)
    speed, before = speeds[setup], first.speeds.get(setup)
    figure_detail = f"{setup.title}, {speed.latency.median_ms:.2f} ms"
    figure_detail += f", was {before.latency.median_ms:.2f} ms" if before else ""
    ratio = speed.ratio or 1.0
    if speed.latency.no_difference:
        return f"no faster in {setup.title}", ("speed-up", "none", figure_detail)
    word = f"{ratio:.2f}x faster" if ratio > 1 else f"{1 / ratio:.2f}x slower"
    return f"{word} in {setup.title}", ("speed-up", f"{ratio:.2f}x", figure_detail)


def _size(last: Row, first: Row) -> tuple[str, Figure | None]:
    if not last.size or not first.size or last.size_format != first.size_format:
        return "", None
    ratio = first.size / last.size
    figure = ("model file", human(last.size, "B"), f"{last.size_format}, was {human(first.size, 'B')}")
    return (f"{ratio:.1f}x smaller" if ratio >= 1.05 else ""), figure


def _accuracy(last: Stage, first: Stage) -> tuple[str, Figure | None]:
    if last.accuracy is None:
        return "", None
    name, score = last.accuracy.primary, last.accuracy.score
    if first.accuracy is None or first.accuracy.primary != name:
        return "", (name, f"{score:.4f}", "")
    drop = (first.accuracy.score - score) * 100
    detail = f"was {first.accuracy.score:.4f}, {-drop:+.2f} points"
    if abs(drop) < 0.05:
        return f"the same {name}", (name, f"{score:.4f}", detail)
    return f"{name} {abs(drop):.1f} points {'lower' if drop > 0 else 'higher'}", (name, f"{score:.4f}", detail)


def _macs(last: Stage, first: Stage) -> Figure | None:
    if not last.macs or not first.macs or last.macs == first.macs:
        return None
    return "MACs", human(last.macs), f"was {human(first.macs)}, {(last.macs / first.macs - 1) * 100:+.0f} %"
