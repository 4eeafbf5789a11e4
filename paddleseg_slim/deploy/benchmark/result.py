"""The result of a benchmark: plain data, a table, a picture."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from paddleseg_slim.deploy.benchmark.statistics import Comparison
from paddleseg_slim.files import atomic_file, write_json


@dataclass(frozen=True)
class Settings:
    """How it was measured.

    Attributes:
        input_shape: of one run, batch first.
        threads: CPU threads of each engine.
        warmup: runs before the first that counts.
        repeats: runs that count, at least; each row has the times of all.
        block: how many of them are run at once before it is the next candidate's turn.
        data: ``random`` or the folder of the images.
        seed: of the random input, the order and the bootstrap.
        cpus: processors that the engines were held on; empty: all.
    """

    input_shape: tuple[int, ...]
    threads: int
    warmup: int = 10
    repeats: int = 50
    block: int = 5
    data: str = "random"
    seed: int = 0
    cpus: tuple[int, ...] = ()


@dataclass(frozen=True)
class Row:
    """What was measured of one candidate; times in milliseconds of one run (a whole batch).

    Attributes:
        label: model name, engine and precision: ``unet@onnxruntime``.
        name: model name.
        engine: engine name.
        device: ``cpu`` or ``gpu``.
        precision: ``int8`` if any convolution runs in integers, else the floating-point precision in force.
        path: the model file.
        file_bytes: size of the file and what belongs to it.
        median_ms: median wall time.
        p90_ms: 90th percentile of the wall time.
        spread: (75th - 25th percentile) / median.
        cpu_ms: median CPU time over all threads.
        throughput: images a second, from the median.
        load_ms: time to load the file.
        first_run_ms: time of the first run.
        peak_memory_mb: peak memory of the engine's process (10^6 bytes).
        model_memory_mb: that, less what the process took before it loaded the model.
        info: what the engine said about itself (`RuntimeInfo.to_dict`).
        comparison: against the base; None for the base itself.
        times_ms: every wall time ``[rounds][runs]``.
        error: why there are no times; empty when there are.
    """

    label: str
    name: str
    engine: str
    device: str
    precision: str
    path: str
    file_bytes: int
    median_ms: float = float("nan")
    p90_ms: float = float("nan")
    spread: float = float("nan")
    cpu_ms: float = float("nan")
    throughput: float = float("nan")
    load_ms: float = float("nan")
    first_run_ms: float = float("nan")
    peak_memory_mb: float = float("nan")
    model_memory_mb: float = float("nan")
    info: dict[str, Any] = field(default_factory=dict)
    comparison: Comparison | None = None
    times_ms: list[list[float]] = field(default_factory=list)
    error: str = ""

    @property
    def int8_convs(self) -> str:
        """Convolutions in int8 of all, as text; empty where the engine does not tell."""
        counts = self.info.get("convolutions") or {}
        return f"{counts.get('int8', 0)}/{sum(counts.values())}" if counts else ""


@dataclass(frozen=True)
class BenchResult:
    """All rows of one benchmark run, the settings and the machine."""

    settings: Settings
    environment: dict[str, Any]
    rows: list[Row]

    def row(self, name: str, engine: str | None = None) -> Row:
        """Return the first row of the model called ``name`` (on ``engine``)."""
        return next(row for row in self.rows if row.name == name and engine in (None, row.engine))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; what was not measured is null."""
        rows = []
        for row in self.rows:
            data = {key: _plain(value) for key, value in asdict(row).items()}
            if row.comparison:
                data["comparison"]["verdict"] = row.comparison.verdict
            rows.append(data)
        return {"settings": asdict(self.settings), "environment": self.environment, "rows": rows}

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write ``benchmark.json`` and ``benchmark.png`` into a folder."""
        write_json(Path(folder) / "benchmark.json", self.to_dict())
        draw(self, Path(folder) / "benchmark.png")

    @property
    def runs(self) -> int:
        """Runs of each candidate that counted."""
        return max((sum(map(len, row.times_ms)) for row in self.rows), default=0)

    def title(self) -> str:
        """Input, threads, repeats and processor in one line."""
        shape = "x".join(map(str, self.settings.input_shape))
        threads = f"{self.settings.threads} thread{'s' if self.settings.threads != 1 else ''}"
        return f"{shape}, {threads}, median of {self.runs} runs after {self.settings.warmup}, {self.environment['cpu']}"

    def table(self) -> Table:
        """The result for a terminal."""
        table = Table(title=self.title(), title_justify="left")
        table.add_column("model")
        table.add_column("engine")
        numbers = (
            "median ms",
            "p90 ms",
            "spread",
            "CPU ms",
            "images/s",
            "memory MB",
            "load ms",
            "file MB",
            "int8 convs",
        )
        for column in numbers:
            table.add_column(column, justify="right")
        table.add_column("against the base")
        for row in self.rows:
            engine = f"{row.engine} {row.info.get('version', '')} {row.precision}"
            if row.error:
                table.add_row(row.name, engine, *[""] * len(numbers), f"[red]failed:[/red] {row.error}")
                continue
            table.add_row(
                row.name,
                engine,
                f"{row.median_ms:.2f}",
                f"{row.p90_ms:.2f}",
                f"{row.spread:.0%}",
                f"{row.cpu_ms:.1f}",
                f"{row.throughput:.1f}",
                f"{row.model_memory_mb:.0f}",
                f"{row.load_ms:.0f}",
                f"{row.file_bytes / 1e6:.2f}",
                row.int8_convs,
                self.against(row),
            )
        return table

    def against(self, row: Row) -> str:
        """A row's comparison in words; a base is a row that another one is compared with."""
        if row.comparison is not None:
            return describe_comparison(row.comparison)
        bases = {other.comparison.base for other in self.rows if other.comparison}
        return "base" if row.label in bases else NOT_COMPARED


NOT_COMPARED = "not compared"
"""Said of a row whose engine did not run a base."""


def describe_comparison(comparison: Comparison) -> str:
    """A comparison in a few words, with its interval."""
    interval = f"[{comparison.low:.2f}, {comparison.high:.2f}]".replace("[", r"\[")
    if comparison.no_difference:
        return f"no difference {interval}"
    return f"{comparison.speedup:.2f}x {interval}"


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value


def draw(result: BenchResult, path: Path) -> None:
    """Draw the medians as horizontal bars, coloured by engine, with the 90th percentile as a line."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [row for row in result.rows if not row.error]
    engines = sorted({row.engine for row in rows})
    colors = dict(zip(engines, ("#2a6f97", "#e07a1f", "#4c956c", "#8d5a97")))
    figure, axes = pyplot.subplots(figsize=(9, 1.4 + 0.45 * max(1, len(rows))), layout="constrained")
    for place, row in enumerate(rows):
        label = row.engine if row.engine not in axes.get_legend_handles_labels()[1] else None
        axes.barh(place, row.median_ms, color=colors[row.engine], label=label)
        axes.plot([row.median_ms, row.p90_ms], [place, place], color="#333333", linewidth=1.5)
        text = f" {row.median_ms:.1f} ms  " + result.against(row).replace("\\", "")
        axes.text(max(row.median_ms, row.p90_ms), place, text, va="center", fontsize=8)
    axes.set_yticks(range(len(rows)), [row.label for row in rows], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds a run: median (bar), 90th percentile (line); less is better")
    axes.margins(x=0.3)
    axes.set_xlim(left=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(result.title(), fontsize=9, loc="left")
    if rows:
        figure.legend(fontsize=8, loc="outside lower center", ncols=len(engines), frameon=False)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")
    pyplot.close(figure)
