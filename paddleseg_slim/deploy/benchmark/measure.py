"""Start one process a candidate, let them take turns, collect the times."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from paddleseg_slim.deploy.benchmark.result import BenchResult, Row, Settings
from paddleseg_slim.deploy.benchmark.statistics import compare
from paddleseg_slim.deploy.runtimes import RuntimeOptions, find_model, require_engine
from paddleseg_slim.deploy.runtimes.base import ANY_INPUT
from paddleseg_slim.deploy.runtimes.machine import describe_machine, idle_cpus
from paddleseg_slim.errors import UserError

_ROOT = Path(__file__).resolve().parents[3]
_COMPANIONS = {".json": (".pdiparams",), ".pdmodel": (".pdiparams",), ".xml": (".bin",), ".onnx": (".onnx.data",)}


@dataclass(frozen=True)
class Candidate:
    """A model file in an engine.

    Attributes:
        name: what the model is called in the result.
        path: the exported file, or the folder that holds it.
        engine: a name of `runtimes.ENGINES`.
        options: how the engine runs it; its ``threads`` are set by `measure`.
    """

    name: str
    path: str | os.PathLike[str]
    engine: str = "onnxruntime"
    options: RuntimeOptions = field(default_factory=RuntimeOptions)

    @property
    def label(self) -> str:
        """Name, engine and what is not the default of its options: ``unet@openvino bf16``."""
        extra = [self.options.precision] if self.options.precision != "fp32" else []
        extra += [self.options.device] if self.options.device != "cpu" else []
        extra += ["trt"] if self.options.use_trt else []
        return " ".join([f"{self.name}@{self.engine}", *extra])


class _Process:
    """One worker, and what came out of it."""

    def __init__(self, candidate: Candidate, threads: int) -> None:
        self.candidate = candidate
        self.file = find_model(candidate.path, candidate.engine)
        self.error = ""
        self.facts: dict[str, Any] = {}
        self.wall: list[list[float]] = []
        self.cpu: list[list[float]] = []
        self._log: IO[str] = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        environment = dict(os.environ, OMP_NUM_THREADS=str(threads), KMP_BLOCKTIME="1", PYTHONUNBUFFERED="1")
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "paddleseg_slim.deploy.benchmark.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
            text=True,
        )

    def load(self, settings: Settings, images: str | None) -> None:
        """Load the model and warm it up; ``images`` is the file of what it is fed, None for random numbers."""
        answer = self.ask(
            "load",
            path=str(self.file),
            engine=self.candidate.engine,
            options=asdict(self.candidate.options),
            input_shape=list(settings.input_shape),
            images=images,
            warmup=settings.warmup,
            seed=settings.seed,
            cpus=settings.cpus,
        )
        self.facts.update(answer)

    def ask(self, verb: str, **request: Any) -> dict[str, Any]:
        """Send a request and wait for its answer; after an error the candidate is left out."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"verb": verb, **request}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the process has died: the empty answer below says so
        line = self._process.stdout.readline()
        if not line:
            self.error = self._death()
            return {}
        answer = json.loads(line)
        if "cause" in answer:
            self.error = f"{answer['cause']} {answer['remedy']}"
        return answer

    def _death(self) -> str:
        """Why the process ended, in one line."""
        code = self._process.wait()
        self._log.seek(0)
        lines = [line.strip() for line in self._log if line.strip()]
        ended = f"signal {-code}" if code < 0 else f"exit code {code}"
        return f"The engine's process ended with {ended}" + (f": {lines[-1][:200]}" if lines else ".")

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate()
        self._log.close()


def measure(
    candidates: Sequence[Candidate],
    *,
    input_shape: Sequence[int] = (1, 3, 512, 512),
    threads: int = 0,
    warmup: int = 10,
    repeats: int = 50,
    block: int = 5,
    interval: float = 0.1,
    max_repeats: int | None = None,
    base: str | None = None,
    images: Sequence[np.ndarray] | None = None,
    data: str = "images",
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> BenchResult:
    """Measure all candidates in one interleaved run.

    Args:
        candidates: what to measure. A candidate that fails has a row with the reason; the others go on.
        input_shape: batch, channels, height, width of one run.
        threads: CPU threads of each engine; 0 is the physical cores. With fewer, the engines are held on the least busy
            cores: else one of them may for a while share a core with something busy, and the other not.
        warmup: runs of each candidate that do not count.
        repeats: runs of each candidate that count, at least.
        block: runs in a row before it is the next candidate's turn.
        interval: go on beyond ``repeats`` until the confidence interval of every ratio is at most this wide. Only the
            width decides when to stop, not the ratio, so that the stop does not favour a result.
        max_repeats: stop there in any case; default 4 x ``repeats``.
        base: what ratios are against: a candidate's label, or a model's name, which means that model in the same
            engine. Default: the first candidate's model.
        images: float arrays of ``input_shape`` to feed in turn instead of random numbers.
        data: what the images are, for the record.
        seed: of the random input, the order of turns and the bootstrap.
        progress: called with (rounds done, rounds in all).

    Raises:
        UserError: no candidates, two of one label, a missing file or engine, a base that is none of them, or numbers
            that make no sense; all before anything is started.
    """
    threads = RuntimeOptions(threads=threads).thread_count
    settings = Settings(tuple(input_shape), threads, warmup, repeats, block, "random" if images is None else data, seed)
    on_cpu = all(item.options.device == "cpu" for item in candidates)
    candidates = [replace(item, options=options_for(item, threads, input_shape)) for item in candidates]
    _check(candidates, settings, base)
    settings = replace(settings, cpus=idle_cpus(threads) if on_cpu else ())
    most = 4 * repeats if max_repeats is None else max(repeats, max_repeats)
    with contextlib.ExitStack() as stack:
        processes = [_Process(item, threads) for item in candidates]
        for process in processes:
            stack.callback(process.close)
        archive = _store(images, Path(stack.enter_context(tempfile.TemporaryDirectory())))
        for process in processes:
            process.load(settings, archive)
        _take_turns(processes, settings, base or candidates[0].name, interval, most, progress)
        for process in processes:
            if not process.error:
                process.facts.update(process.ask("finish"))
    rows = [_row(process, settings) for process in processes]
    rows = _with_ratios(rows, candidates, base or candidates[0].name, seed)
    return BenchResult(settings, describe_machine(), rows)


def _check(candidates: Sequence[Candidate], settings: Settings, base: str | None) -> None:
    if not candidates:
        raise UserError("There is nothing to measure.", "Give at least one model.")
    labels = [item.label for item in candidates]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise UserError(f"Two models are called {twice[0]}.", "Name them: NAME=PATH.")
    if min(settings.repeats, settings.block) < 1 or settings.warmup < 0 or min(settings.input_shape) < 1:
        raise UserError(
            f"Cannot measure {settings.repeats} repeats, block {settings.block}, warm-up {settings.warmup}, "
            f"input {list(settings.input_shape)}.",
            "Give positive numbers.",
        )
    names = {item.name for item in candidates}
    if base is not None and base not in names and base not in labels:
        raise UserError(f"The base {base!r} is not measured.", f"Choose one of: {', '.join(sorted(names) + labels)}.")
    for item in candidates:
        require_engine(item.engine)
        find_model(item.path, item.engine)


def _store(images: Sequence[np.ndarray] | None, folder: Path) -> str | None:
    """Write the images where the workers can read them."""
    if images is None:
        return None
    path = folder / "images.npz"
    arrays: dict[str, Any] = {f"image_{index:05d}": image for index, image in enumerate(images)}
    np.savez(path, **arrays)
    return str(path)


def options_for(candidate: Candidate, threads: int, input_shape: Sequence[int]) -> RuntimeOptions:
    """A candidate's options with these threads; TensorRT builds its engine for the size that is measured."""
    options = replace(candidate.options, threads=threads)
    if candidate.engine != "tensorrt" or options.input_shapes:
        return options
    return replace(options, input_shapes={ANY_INPUT: (tuple(input_shape),) * 3})


def _take_turns(
    processes: list[_Process],
    settings: Settings,
    base: str,
    interval: float,
    most: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Round after round, every candidate runs a block; the order is shuffled anew in each round."""
    generator = np.random.default_rng(settings.seed)
    least, most = (-(-runs // settings.block) for runs in (settings.repeats, most))
    number, wanted = 0, least
    while number < wanted:
        for index in generator.permutation(len(processes)):
            process = processes[index]
            if not process.error:
                answer = process.ask("block", runs=settings.block)
                if not process.error:
                    process.wall.append(answer["wall_ms"])
                    process.cpu.append(answer["cpu_ms"])
        number += 1
        if number == wanted and wanted < most and _widest(processes, base, settings.seed) > interval:
            wanted = min(most, wanted + max(1, least // 5))
        if progress:
            progress(number, wanted)


def _widest(processes: list[_Process], base: str, seed: int) -> float:
    """Width of the widest confidence interval so far, by the bootstrap samples that the result is made of."""
    working = [process for process in processes if not process.error]
    labels = {process.candidate.label: process for process in working}
    widths = [0.0]
    for process in working:
        label = _base_label(process.candidate, base, [other.candidate for other in working])
        if label is not None and label != process.candidate.label:
            comparison = compare(label, np.array(labels[label].wall), np.array(process.wall), seed=seed)
            widths.append(comparison.high - comparison.low)
    return max(widths)


def _base_label(candidate: Candidate, base: str, candidates: Sequence[Candidate]) -> str | None:
    """Label of what a candidate is compared with: the one of that label, or of that name in the same engine."""
    exact = [other.label for other in candidates if other.label == base]
    same = [other.label for other in candidates if other.name == base and other.engine == candidate.engine]
    return next(iter(exact or same), None)


def _file_bytes(path: Path) -> int:
    """Size of a model file and of what belongs to it."""
    companions = [path.with_suffix(suffix) for suffix in _COMPANIONS.get(path.suffix, ())]
    return sum(file.stat().st_size for file in [path, *companions] if file.exists())


def _row(process: _Process, settings: Settings) -> Row:
    candidate = process.candidate
    common: dict[str, Any] = {
        "label": candidate.label,
        "name": candidate.name,
        "engine": candidate.engine,
        "device": candidate.options.device,
        "path": str(process.file),
        "file_bytes": _file_bytes(process.file),
    }
    if process.error:
        return Row(**common, precision=candidate.options.precision, error=process.error)
    wall, facts = np.array(process.wall), process.facts
    median = float(np.median(wall))
    quarter, three_quarters, p90 = np.quantile(wall, [0.25, 0.75, 0.9])
    return Row(
        **common,
        precision=facts["info"]["computes_in"],
        median_ms=median,
        p90_ms=float(p90),
        spread=float((three_quarters - quarter) / median),
        cpu_ms=float(np.median(process.cpu)),
        throughput=settings.input_shape[0] * 1000 / median,
        load_ms=facts["load_ms"],
        first_run_ms=facts["first_run_ms"],
        peak_memory_mb=facts["peak_memory_mb"],
        model_memory_mb=facts["model_memory_mb"],
        info=facts["info"],
        times_ms=process.wall,
    )


def _with_ratios(rows: list[Row], candidates: Sequence[Candidate], base: str, seed: int) -> list[Row]:
    """Add to every row its comparison with its base."""
    working = {row.label: row for row in rows if not row.error}
    known = [item for item in candidates if item.label in working]
    result = []
    for row, candidate in zip(rows, candidates):
        label = None if row.error else _base_label(candidate, base, known)
        if label is not None and label != row.label:
            times = [np.array(item.times_ms) for item in (working[label], row)]
            row = replace(row, comparison=compare(label, *times, seed=seed))
        result.append(row)
    return result
