"""How much each group matters: the metric with a part of its channels gated, for every group and ratio.

Batches are the outer loop, groups and ratios the inner one. A batch is read and prepared once, and for every point only
the stages of the model that its gates change run again (`stages`), several points at a time. The metric's counts add up
over batches, and counts and batch number are all that is stored, so a killed analysis goes on where it was.

``exact`` measures the task's metric on all data. ``fast`` measures how far the outputs move on a few images, which
ranks the groups as well, and brings that to the metric's scale (`divergence.calibrated`).
"""

from __future__ import annotations

import hashlib
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from paddleseg_slim.errors import UserError
from paddleseg_slim.files import atomic_file
from paddleseg_slim.graph.executor import Executor
from paddleseg_slim.prune.channels import ChannelGroups
from paddleseg_slim.prune.criteria import keep_best, removal_order
from paddleseg_slim.prune.curves import Curves, GroupCurve
from paddleseg_slim.prune.divergence import Counts, WithDivergence, calibrated
from paddleseg_slim.prune.stages import Stages

EXACT_RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
FAST_RATIOS = (0.1, 0.3, 0.5, 0.7, 0.9)
FAST_IMAGES = 16
_SAVE_EVERY_SECONDS = 20.0


@dataclass(frozen=True)
class Data:
    """The data to measure on.

    Attributes:
        batches: ``batches(start)`` yields the batches from number ``start`` on, always the same; ``img`` is the input.
        count: how many batches there are.
        accumulator: makes an empty metric.
        outputs: picks from the model's outputs (or the values that stand for them) what the metric is of.
        fingerprint: changes when the data does.
    """

    batches: Callable[[int], Iterator[Mapping[str, Any]]]
    count: int
    accumulator: Callable[[], Counts]
    outputs: Callable[[Any], Any]
    fingerprint: str = ""


class _State:
    """Counts of every point so far, on disk."""

    def __init__(self, path: Path | None, fingerprint: str, shape: tuple[int, ...], dtype: Any) -> None:
        self.path, self.fingerprint = path, fingerprint
        self.counts, self.images, self.batch = np.zeros(shape, dtype), 0, 0
        self._saved = time.monotonic()
        if path is not None and path.is_file():
            self._load(path)

    def _load(self, path: Path) -> None:
        try:
            with np.load(path, allow_pickle=False) as data:
                known, counts = str(data["fingerprint"]), data["counts"]
                images, batch = int(data["images"]), int(data["batch"])
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise UserError(f"{path} is damaged: {error}", "Delete it to measure again.") from error
        if known != self.fingerprint or counts.shape != self.counts.shape:
            raise UserError(
                f"{path} is of an analysis with other weights, data or settings.",
                "Delete it to measure again, or give another --save_dir.",
            )
        self.counts, self.images, self.batch = counts, images, batch

    def save(self, force: bool = False) -> None:
        """Write it, at most every few seconds."""
        if self.path is None or (not force and time.monotonic() - self._saved < _SAVE_EVERY_SECONDS):
            return
        with atomic_file(self.path) as temporary, open(temporary, "wb") as stream:
            np.savez(
                stream, fingerprint=self.fingerprint, counts=self.counts, images=self.images, batch=self.batch
            )  # fmt: skip
        self._saved = time.monotonic()


def weights_fingerprint(groups: ChannelGroups) -> str:
    """SHA-256 over names and contents of all weights."""
    digest = hashlib.sha256()
    for name, tensor in groups.model.tensors():
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensor.numpy()).tobytes())
    return digest.hexdigest()


def check_trained(result: Any) -> None:
    """Refuse a model whose metric is that of chance.

    Raises:
        UserError: the baseline is about 0, or not a number.
    """
    kappa = float(result.values.get("Kappa", 1.0))
    if not np.isfinite(result.score) or result.score < 0.02 or kappa < 0.02:
        raise UserError(
            f"The model is not trained: its {result.primary} is {result.score:.4f}"
            + (f" (Kappa {kappa:.4f}: no better than chance)." if kappa < 0.02 else "."),
            "Give trained weights with --model_path.",
        )


def analyse(
    groups: ChannelGroups,
    scores: Mapping[str, np.ndarray],
    data: Data,
    executor: Executor,
    *,
    mode: str = "exact",
    ratios: Sequence[float] = EXACT_RATIOS,
    state: Path | None = None,
    fingerprint: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    workers: int = 1,
    rank: int = 0,
    world: int = 1,
    total: Callable[[np.ndarray], np.ndarray] = lambda counts: counts,
) -> Curves:
    """Measure the metric with the least important channels of each group gated.

    Args:
        groups: of the model.
        scores: group -> importance of its channels (`criteria`); groups that are missing are not measured.
        data: what to measure on.
        executor: the engine that runs the graphs.
        mode: ``fast`` measures the divergence, calibrated by the metric; others the metric.
        ratios: parts of a group's channels that are removed.
        state: file in which the analysis is kept while it runs; removed at its end.
        fingerprint: what the result is valid for.
        progress: called with points done and all.
        workers: points that run at a time; the executor should then use that many fewer threads.
        rank, world: which share of the batches this process takes.
        total: sums an array over the processes.

    Raises:
        UserError: the model is not trained, or ``state`` is of another analysis.
    """
    names = [g.name for g in groups.groups if g.name in scores]
    kept = {n: kept_at(groups.by_name[n].width, ratios) for n in names}
    if mode == "fast":
        data = replace(data, accumulator=partial(WithDivergence, data.accumulator))
    stages = Stages(groups, names, executor, data.outputs)
    alive = {(n, k): groups.keep({n: keep_best(scores[n], k)}) for n in names for k in kept[n]}
    index = {key: number + 1 for number, key in enumerate(alive)}
    counts = data.accumulator().counts
    stamp = hashlib.sha256(repr([fingerprint, mode, list(index), rank, world]).encode()).hexdigest()
    run = _State(state, stamp, (len(index) + 1, *counts.shape), counts.dtype)
    mine = len(range(rank, data.count, world))
    with ThreadPoolExecutor(workers) as pool:
        for batch in data.batches(run.batch):
            _add_batch(stages, data, run, batch, alive, map if workers == 1 else pool.map)
            run.images += len(batch["img"])
            run.batch += 1
            run.save()
            progress(run.batch, mine)
    run.save(force=True)
    summed, images = total(run.counts), int(total(np.array([run.images]))[0])
    curves = _curves(groups, scores, data, summed, images, kept, index, mode, dict(fingerprint or {}))
    if state is not None:
        state.unlink(missing_ok=True)
    return curves


def _add_batch(
    stages: Stages, data: Data, run: _State, batch: Mapping[str, Any], alive: Mapping[tuple[str, int], np.ndarray],
    each: Callable[..., Any],
) -> None:  # fmt: skip
    """Add one batch to the counts of the untouched model (row 0) and of every point."""
    values = stages.start(batch)
    batch = {**batch, "original": values[stages.wanted]}
    _add(data, run, 0, values[stages.wanted], batch)

    def point(number: int, key: tuple[str, int]) -> None:
        _add(data, run, number, stages.point(key[0], values, alive[key]), batch)

    for _ in each(point, range(1, len(alive) + 1), alive):
        pass


def kept_at(width: int, ratios: Sequence[float]) -> list[int]:
    """Channels left of ``width`` at each ratio removed, descending."""
    return sorted({max(1, round(width * (1 - ratio))) for ratio in ratios} - {width}, reverse=True)


def _add(data: Data, run: _State, number: int, output: np.ndarray, batch: Mapping[str, Any]) -> None:
    metric = data.accumulator()
    metric.update(output, batch)
    run.counts[number] += metric.counts


def _metric(data: Data, counts: np.ndarray, images: int) -> Any:
    metric = data.accumulator()
    metric.counts, metric.images = counts, images
    return metric


def _curves(
    groups: ChannelGroups, scores: Mapping[str, np.ndarray], data: Data, counts: np.ndarray, images: int,
    kept: Mapping[str, list[int]], index: Mapping[tuple[str, int], int], mode: str, fingerprint: dict[str, Any],
) -> Curves:  # fmt: skip
    baseline = _metric(data, counts[0], images).result()
    check_trained(baseline)
    metrics = [_metric(data, counts[number], images) for number in index.values()]
    losses = np.array([(baseline.score - metric.result().score) / baseline.score for metric in metrics])
    if mode == "fast":
        losses = calibrated(np.array([metric.divergence for metric in metrics]), losses)
    table = {}
    for name, widths in kept.items():
        own = [float(losses[index[name, k] - 1]) for k in widths]
        order = removal_order(scores[name]).tolist()
        table[name] = GroupCurve(groups.by_name[name].width, list(widths), own, order)
    return Curves(mode, baseline.primary, float(baseline.score), images, table, fingerprint)


def baseline(groups: ChannelGroups, data: Data, executor: Executor) -> Any:
    """The metric of the untouched model, checked by `check_trained`."""
    stages = Stages(groups, [], executor, data.outputs)
    metric = data.accumulator()
    for batch in data.batches(0):
        output = stages.start(batch)[stages.wanted]
        metric.update(output, {**batch, "original": output})
    result = metric.result()
    check_trained(result)
    return result
