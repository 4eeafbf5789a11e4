"""The one table of a run, as numbers: what every stage cost and gained, against the stage that its chain began with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from paddleseg_slim.errors import UserError
from paddleseg_slim.report.stage import Latency, Stage

_FORMATS = {
    "ONNX": (".onnx", ".onnx.data"),
    "Paddle Inference": (".json", ".pdmodel", ".pdiparams"),
    "safetensors": (".safetensors",),
    "checkpoint": (".pdparams",),
}
"""Formats of a model file by suffix, in the order in which the report prefers them."""

ENGINE_TITLES = {
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "paddle": "Paddle Inference",
    "tensorrt": "TensorRT",
}
"""What engines are called on the page."""

_NOT_MODELS = ("stage.json", "compression.json", "manifest.json", "benchmark.json", "graph.json", "sensitivities.json")


@dataclass(frozen=True, order=True)
class Setup:
    """Where a time was measured: only times of one setup may be compared."""

    engine: str
    device: str
    threads: int
    input_shape: tuple[int, ...]

    @classmethod
    def of(cls, latency: Latency) -> Setup:
        """The setup of a measured time."""
        return cls(latency.engine, latency.device, latency.threads, tuple(latency.input_shape))

    @property
    def title(self) -> str:
        """The engine as its makers write it."""
        return ENGINE_TITLES.get(self.engine, self.engine)

    def __str__(self) -> str:
        where = f"{self.threads} thread{'s' if self.threads != 1 else ''}" if self.device == "cpu" else self.device
        return f"{self.title}, {where}, {'x'.join(map(str, self.input_shape))}"


@dataclass(frozen=True)
class Speed:
    """A measured time and what it means.

    Attributes:
        latency: the measurement.
        ratio: time of the base / this time; None without a base.
        base: name of the stage that ``ratio`` is against.
        interleaved: whether both were measured in one interleaved run. If not, ``ratio`` is a mere quotient.
        expected_base: name of the stage that a reader takes ``ratio`` to be against, if nothing else is said.
    """

    latency: Latency
    ratio: float | None = None
    base: str = ""
    interleaved: bool = False
    expected_base: str = ""

    @property
    def verdict(self) -> str:
        """The comparison in words, with its interval where there is one."""
        if self.ratio is None:
            return ""
        against = f" against {self.base}" if self.base != self.expected_base else ""
        if not self.interleaved:
            return f"about {self.ratio:.2f}x{against}, measured apart"
        low, high = self.latency.ci_low, self.latency.ci_high
        interval = f" [{low:.2f}, {high:.2f}]" if low is not None and high is not None else ""
        if self.latency.no_difference:
            return f"no difference{interval}{against}"
        return f"{self.ratio:.2f}x{interval}{against}"


@dataclass(frozen=True)
class Row:
    """One stage in the table.

    Attributes:
        stage: what it says of itself.
        folder: where it is.
        base: the stage that it is compared with: the first one of its chain (``Stage.base`` of ``Stage.base`` ...);
            None for that one itself.
        size: bytes of its model file, in the format ``size_format``; None when it wrote none.
        speeds: its measured times by setup.
    """

    stage: Stage
    folder: Path
    base: Stage | None
    size: int | None
    size_format: str
    speeds: dict[Setup, Speed]

    @property
    def drop(self) -> float | None:
        """How far the accuracy is below the base's, in points of 0.01; None where one of them is not known."""
        mine, base = self.stage.accuracy, self.base.accuracy if self.base else None
        if not mine or not base or mine.primary != base.primary:
            return None
        return (base.score - mine.score) * 100


@dataclass(frozen=True)
class Summary:
    """The table of a run.

    Attributes:
        rows: in order.
        setups: that any of the rows was measured in.
        unplaced: names under which models were measured that no row has: their times are not in the table.
    """

    rows: tuple[Row, ...]
    setups: tuple[Setup, ...]
    unplaced: tuple[str, ...] = ()

    @property
    def first(self) -> Row:
        """The row that everything began with."""
        return self.rows[0]

    @property
    def last(self) -> Row:
        """The row at the end of the chain of compressions."""
        return self.rows[-1]

    def row(self, name: str) -> Row | None:
        """The row of the stage called ``name``."""
        return next((row for row in self.rows if row.stage.name == name), None)


def model_size(files: dict[str, int]) -> tuple[int | None, str]:
    """Size in bytes and format of a stage's model file: what one would copy to the device.

    Where there are several formats, the first of ONNX, Paddle Inference, safetensors, checkpoint counts; where there
    are several files of the format with different names, the smallest one, with what belongs to it.
    """
    for name, suffixes in _FORMATS.items():
        sizes: dict[str, int] = {}
        complete = set()
        for path, size in files.items():
            suffix = next((end for end in suffixes if path.endswith(end)), None)
            if suffix is None or PurePosixPath(path).name in _NOT_MODELS:
                continue
            stem = path[: -len(suffix)]
            sizes[stem] = sizes.get(stem, 0) + size
            if suffix != ".json":  # a .json alone is no model
                complete.add(stem)
        if complete:
            return min(sizes[stem] for stem in complete), name
    return None, ""


def summarize(stages: Iterable[tuple[Path, Stage]]) -> Summary:
    """Make the table of stages (see `stage.find_stages`).

    A stage that only measured (a benchmark) has no row: its times go to the stages they are of.

    Raises:
        UserError: there are only measurements, of none of these stages.
    """
    found = list(stages)
    by_name = {stage.name: stage for _, stage in found}
    measured: dict[str, dict[Setup, Latency]] = {}
    for _, stage in found:
        for latency in stage.latency:
            times = measured.setdefault(latency.stage or stage.name, {})
            setup = Setup.of(latency)
            if setup not in times or latency.speedup is not None or times[setup].speedup is None:
                times[setup] = latency
    rows = []
    for folder, stage in found:
        if stage.kind == "bench" and stage.name not in measured:
            continue
        base = _origin(stage, by_name)
        size, size_format = model_size(stage.files)
        times = measured.get(stage.name, {})
        base_times = measured.get(base.name, {}) if base else {}
        speeds = {setup: _speed(latency, base_times.get(setup), base) for setup, latency in times.items()}
        rows.append(Row(stage, folder, base, size, size_format, speeds))
    unplaced = tuple(name for name in measured if name not in by_name)
    if not rows:
        raise UserError(
            f"There are only measurements{_of(unplaced)}, and no stage that they are of.",
            "Give the folders of the stages, too; bench NAME=PATH names a model as its stage is called.",
        )
    return Summary(tuple(rows), tuple(sorted({setup for row in rows for setup in row.speeds})), unplaced)


def _of(names: Sequence[str]) -> str:
    return f" of {', '.join(names)}" if names else ""


def _origin(stage: Stage, stages: Mapping[str, Stage]) -> Stage | None:
    """The stage that the chain of ``stage`` began with; None for that stage itself."""
    origin, seen = stage, {stage.name}
    while origin.base in stages and origin.base not in seen:
        origin = stages[str(origin.base)]
        seen.add(origin.name)
    return None if origin is stage else origin


def _speed(latency: Latency, base_latency: Latency | None, base: Stage | None) -> Speed:
    name = base.name if base else ""
    if latency.speedup is not None:
        return Speed(latency, latency.speedup, latency.base or name, interleaved=True, expected_base=name)
    if base_latency is not None:
        return Speed(latency, base_latency.median_ms / latency.median_ms, name, expected_base=name)
    return Speed(latency)


def warnings(summary: Summary) -> list[str]:
    """Sentences that the numbers demand: compressed stages that gained no speed, or lost accuracy unmeasured;
    and which times are missing, because what was measured has the name of no stage.
    """
    said = unplaced_times(summary)
    for row in summary.rows:
        said += [f"{row.stage.name}: {note}" for note in row.stage.notes]
        if row.base is None:
            continue
        for setup, speed in row.speeds.items():
            if speed.interleaved and speed.latency.no_difference:
                said.append(f"{row.stage.name}: no speed-up against {speed.base} ({setup}).")
            elif speed.interleaved and speed.ratio is not None and speed.ratio < 1:
                said.append(f"{row.stage.name}: slower than {speed.base}, {speed.ratio:.2f}x ({setup}).")
        if row.stage.accuracy is None and row.stage.kind not in ("export", "bench"):
            said.append(f"{row.stage.name}: its accuracy was not measured.")
        if row.stage.accuracy and row.base.accuracy and row.stage.accuracy.images != row.base.accuracy.images:
            said.append(f"{row.stage.name}: evaluated on another number of images than {row.base.name}.")
    return said


def unplaced_times(summary: Summary) -> list[str]:
    """A sentence on each of `Summary.unplaced`."""
    names = ", ".join(row.stage.name for row in summary.rows)
    return [
        f"The times of {name} are left out: no stage has this name ({names}). Measure it under its stage's name: "
        "bench NAME=PATH."
        for name in summary.unplaced
    ]


def fraction(value: float | None, base: float | None) -> str:
    """``value`` as a share of ``base``: ``-31 %``; empty where it cannot be said or nothing changed."""
    if value is None or not base or value == base:
        return ""
    return f"{(value / base - 1) * 100:+.0f} %"


def human(count: float | None, unit: str = "") -> str:
    """A count with a decimal prefix: 1,234,567 -> ``1.23 M``; a dash for None."""
    if count is None:
        return "–"
    for limit, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= limit:
            return f"{count / limit:.3g} {prefix}{unit}"
    return f"{count:.3g} {unit}".rstrip()


def duration(seconds: float) -> str:
    """``75.0`` -> ``1 min 15 s``."""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 1 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def classes(rows: Sequence[Row]) -> list[str]:
    """Class names of the rows' evaluations, in the order of the first one."""
    names: dict[str, None] = {}
    for row in rows:
        names.update(dict.fromkeys(row.stage.accuracy.per_class if row.stage.accuracy else ()))
    return list(names)
