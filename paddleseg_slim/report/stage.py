"""What a stage of a run leaves behind for the report: ``stage.json`` in its folder.

Training, pruning, quantization, distillation, export and benchmark commands write one with `write_stage`; the report
reads nothing else. All paths in it are relative to its folder.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from paddleseg_slim.config.signature import check_arguments
from paddleseg_slim.errors import UserError
from paddleseg_slim.files import write_json

FILE_NAME = "stage.json"
KINDS = ("train", "prune", "quant", "distill", "export", "eval", "bench")


@dataclass(frozen=True)
class Accuracy:
    """The result of an evaluation, as in `tasks.base.Metrics`.

    Attributes:
        primary: name of the number that decides; higher is better, in [0, 1].
        values: every number by name.
        per_class: the primary kind of number by class name; None for a class that is absent.
        images: how many images were evaluated.
        source: what was evaluated: ``model`` in memory, or the exported file by its engine, ``onnxruntime``.
    """

    primary: str
    values: dict[str, float]
    per_class: dict[str, float | None] = field(default_factory=dict)
    images: int = 0
    source: str = "model"

    @classmethod
    def of(cls, metrics: Any, source: str = "model") -> Accuracy:
        """Make it of a `tasks.base.Metrics`."""
        return cls(metrics.primary, dict(metrics.values), dict(metrics.per_class), metrics.images, source)

    @property
    def score(self) -> float:
        """The primary number."""
        return self.values[self.primary]


@dataclass(frozen=True)
class Latency:
    """The measured time of one model in one engine.

    Attributes:
        engine: ``paddle``, ``onnxruntime``, ``openvino``, ``tensorrt``.
        device: ``cpu`` or ``gpu``.
        threads: CPU threads of the engine.
        input_shape: of one run, batch first.
        median_ms: median wall time of a run.
        p90_ms: its 90th percentile.
        precision: precision in force: ``fp32``, ``int8``, ``bf16`` ...
        speedup: time of ``base`` in the same engine / time of this, from turns of one interleaved benchmark; None
            where there was no such comparison.
        ci_low, ci_high: 95 % confidence interval of ``speedup``.
        base: name of the stage that ``speedup`` is against.
        stage: name of the stage whose model was measured; empty for the stage that holds this entry.
        note: what a reader must know: ``3 of 21 convolutions fell back to float``.
    """

    engine: str
    device: str
    threads: int
    input_shape: tuple[int, ...]
    median_ms: float
    p90_ms: float
    precision: str = "fp32"
    speedup: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    base: str = ""
    stage: str = ""
    note: str = ""

    @property
    def no_difference(self) -> bool:
        """Whether the confidence interval of the speed-up holds 1."""
        return self.ci_low is not None and self.ci_high is not None and self.ci_low <= 1 <= self.ci_high

    @classmethod
    def of(cls, row: Any, settings: Any, stage: str = "") -> Latency:
        """Make it of a `deploy.benchmark.Row` (one without error) and the `Settings` of its run."""
        comparison = row.comparison
        numbers = (comparison.speedup, comparison.low, comparison.high) if comparison else (None, None, None)
        speedup, low, high = (value if value is not None and math.isfinite(value) else None for value in numbers)
        return cls(
            engine=row.engine,
            device=row.device,
            threads=settings.threads,
            input_shape=tuple(settings.input_shape),
            median_ms=row.median_ms,
            p90_ms=row.p90_ms,
            precision=row.precision,
            speedup=speedup,
            ci_low=low,
            ci_high=high,
            base=comparison.base.split("@")[0] if comparison else "",
            stage=stage,
            note=f"{row.int8_convs} convolutions in int8" if row.int8_convs else "",
        )


@dataclass(frozen=True)
class Stage:
    """One stage of a run.

    Attributes:
        name: unique among the stages reported together: ``pruned``.
        kind: one of `KINDS`.
        command: what reproduces it, as typed.
        accuracy: of the model that the stage made; None where none was measured.
        params: number of parameters of that model.
        macs: multiply-accumulates of one image at the evaluated size.
        files: size in bytes of what it wrote, by path.
        latency: measured times.
        base: name of the stage that this one is compared with; None for the first.
        environment: machine and versions, free keys.
        samples: pictures (``.png``, ``.jpg``), or ``.npz`` with ``image`` uint8 ``[H, W, 3]`` RGB and class maps
            ``[H, W]``: ``label`` (may be absent), ``before`` (of the base) and ``after``.
        seconds: how long it took.
        curves: by name (``loss``, ``mIoU``), points ``[step, value]``.
        notes: sentences that a reader must see: what fell back, what gained nothing.
        input_shape: shape that ``macs`` is for, batch first.
        widths: of a pruned model, channels of every group before and after, by its name.
        untouched: why a group of these lost nothing, by its name.
        pinned: why channels of a layer that are in no group cannot be removed, by the layer.
        pictures: further pictures (``.png``, ``.jpg``) -> their captions.
    """

    name: str
    kind: str
    command: str
    accuracy: Accuracy | None = None
    params: int | None = None
    macs: int | None = None
    files: dict[str, int] = field(default_factory=dict)
    latency: tuple[Latency, ...] = ()
    base: str | None = None
    environment: dict[str, Any] = field(default_factory=dict)
    samples: tuple[str, ...] = ()
    seconds: float = 0.0
    curves: dict[str, list[list[float]]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    input_shape: tuple[int, ...] = ()
    widths: dict[str, tuple[int, int]] = field(default_factory=dict)
    untouched: dict[str, str] = field(default_factory=dict)
    pinned: dict[str, str] = field(default_factory=dict)
    pictures: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(
                f"The stage {self.name!r} is of the kind {self.kind!r}.", f"Known kinds: {', '.join(KINDS)}."
            )


def file_sizes(folder: str | os.PathLike[str], *patterns: str) -> dict[str, int]:
    """Sizes in bytes of the files in ``folder`` that match the patterns (all files without one), by relative path."""
    root = Path(folder)
    found = {path for pattern in patterns or ("**/*",) for path in root.glob(pattern) if path.is_file()}
    return {path.relative_to(root).as_posix(): path.stat().st_size for path in sorted(found) if path.name != FILE_NAME}


def write_stage(folder: str | os.PathLike[str], stage: Stage) -> Path:
    """Write ``stage.json`` into ``folder`` and return its path."""
    path = Path(folder) / FILE_NAME
    write_json(path, asdict(stage))
    return path


def read_stage(path: str | os.PathLike[str]) -> Stage:
    """Read a ``stage.json``, or the one in a folder.

    Raises:
        UserError: it is missing or malformed.
    """
    file = Path(path)
    file = file / FILE_NAME if file.is_dir() else file
    if not file.is_file():
        raise UserError(f"{file} does not exist.", "Give the folder that a train, prune, quant or bench command wrote.")
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file} is not JSON: {error}.", "Run the stage again; its files are written whole.") from error
    if not isinstance(data, Mapping):
        raise UserError(f"{file} does not hold a stage.", "Run the stage again.")
    accuracy, latency = data.get("accuracy"), data.get("latency", [])
    if accuracy is not None:
        data = {**data, "accuracy": Accuracy(**_checked(Accuracy, accuracy, f"{file}: accuracy"))}
    if isinstance(latency, list):
        rows = [Latency(**_checked(Latency, row, f"{file}: latency[{i}]")) for i, row in enumerate(latency)]
        data = {**data, "latency": rows}
    return Stage(**_checked(Stage, data, f"{file}: stage"))


def _checked(kind: type, data: Any, where: str) -> dict[str, Any]:
    if not isinstance(data, Mapping):
        raise UserError(f"{where} is {data!r}, not an object.", "Run the stage again.")
    return check_arguments(kind, data, where)


def find_stages(paths: list[str | os.PathLike[str]]) -> list[tuple[Path, Stage]]:
    """Find the stages in run folders, with their folders, bases before what is compared with them (`join.joined`).

    Raises:
        UserError: a folder holds none, or two stages have one name that their folders do not tell apart.
    """
    from paddleseg_slim.report.join import joined

    found: dict[Path, Stage] = {}
    for path in map(Path, paths):
        files = sorted(path.rglob(FILE_NAME)) if path.is_dir() else [path]
        if not files:
            raise UserError(f"{path} holds no {FILE_NAME}.", "Give the folder of a run of this package.")
        found.update({file.parent.resolve(): read_stage(file) for file in files})
    stages = joined(found)
    names = [stage.name for stage in stages.values()]
    for name in names:
        if names.count(name) > 1:
            folders = ", ".join(str(folder) for folder, stage in stages.items() if stage.name == name)
            raise UserError(f"Two stages are called {name!r}: {folders}.", "Report on runs that differ in their names.")
    order = {stage.name: stage for stage in stages.values()}
    return sorted(stages.items(), key=lambda item: (_depth(item[1], order), KINDS.index(item[1].kind)))


def _depth(stage: Stage, stages: Mapping[str, Stage]) -> int:
    depth, seen = 0, {stage.name}
    while stage.base and stage.base in stages and stage.base not in seen:
        stage = stages[stage.base]
        seen.add(stage.name)
        depth += 1
    return depth
