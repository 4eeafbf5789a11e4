"""How much each group matters: the metric with a part of its channels gated, for every group and ratio.

Batches are the outer loop, groups and ratios the inner one. A batch is read and prepared once, and for every point only
what depends on its group runs again (`tails`), several groups at a time. The metric's counts add up over batches, and
counts and batch number are all that is stored, so a killed analysis goes on where it was.

``exact`` measures the task's metric on all data. ``fast`` measures how far the outputs move on a few images, which
ranks the groups as well, and brings that to the metric's scale (`divergence.calibrated`).
"""

from __future__ import annotations

import hashlib
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
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
from paddleseg_slim.prune.partial_sums import Values
from paddleseg_slim.prune.tails import Head, Points, Tail, find_tails, rounds_of

EXACT_RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
FAST_RATIOS = (0.1, 0.3, 0.5, 0.7, 0.9)
FAST_IMAGES = 16
TOGETHER = 4
"""Images of a batch: of more, the activations leave the processor's caches."""

_SAVE_EVERY_SECONDS = 20.0


@dataclass(frozen=True)
class Data:
    """The data to measure on.

    Attributes:
        batches: ``batches(start)`` yields the batches from number ``start`` on, always the same; ``img`` is the input.
        count: how many batches there are.
        accumulator: makes an empty metric.
        outputs: picks from the model's outputs (or the values that stand for them) what the metric is of.
        batch_size: most images of a batch, for the memory that is set aside.
    """

    batches: Callable[[int], Iterator[Mapping[str, Any]]]
    count: int
    accumulator: Callable[[], Counts]
    outputs: Callable[[Any], Any]
    batch_size: int


class _State:
    """Counts of every point so far, on disk.

    Attributes:
        counts: ``[points + 1, ...]``, the untouched model's first.
        images: that were looked at.
        batches: that were looked at, of all rounds.
    """

    def __init__(self, path: Path | None, fingerprint: str, shape: tuple[int, ...], dtype: Any) -> None:
        self.path, self.fingerprint = path, fingerprint
        self.counts, self.images, self.batches = np.zeros(shape, dtype), 0, 0
        self._saved = time.monotonic()
        if path is not None and path.is_file():
            self._load(path)

    def _load(self, path: Path) -> None:
        try:
            with np.load(path, allow_pickle=False) as data:
                known, counts = str(data["fingerprint"]), data["counts"]
                images, batches = int(data["images"]), int(data["batches"])
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise UserError(f"{path} is damaged: {error}", "Delete it to measure again.") from error
        if known != self.fingerprint or counts.shape != self.counts.shape:
            raise UserError(
                f"{path} is of an analysis with other weights, data or settings, or of another version.",
                "Delete it to measure again, or give another --save_dir.",
            )
        self.counts, self.images, self.batches = counts, images, batches

    def save(self, force: bool = False) -> None:
        """Write it, at most every few seconds."""
        if self.path is None or (not force and time.monotonic() - self._saved < _SAVE_EVERY_SECONDS):
            return
        with atomic_file(self.path) as temporary, open(temporary, "wb") as stream:
            np.savez(
                stream, fingerprint=self.fingerprint, counts=self.counts, images=self.images, batches=self.batches
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
        progress: called with batches done and all, of all rounds.
        workers: pieces of groups whose points run at a time; the executor should then use that many fewer threads.
        rank, world: which share of the batches this process takes.
        total: sums an array over the processes.

    Raises:
        UserError: the model is not trained, or ``state`` is of another analysis.
    """
    names = [g.name for g in groups.groups if g.name in scores]
    kept = {n: kept_at(groups.by_name[n].width, ratios) for n in names}
    if mode == "fast":
        data = replace(data, accumulator=partial(WithDivergence, data.accumulator))
    index = {key: number + 1 for number, key in enumerate((n, k) for n in names for k in kept[n])}
    counts = data.accumulator().counts
    mine = len(range(rank, data.count, world))
    rounds = rounds_of(groups, find_tails(groups, names, data.outputs), data.batch_size) if mine else []
    in_rounds = [[tail.group for tail in few] for few in rounds]
    settings = [fingerprint, mode, list(index), data.count, data.batch_size, rank, world, in_rounds]
    stamp = hashlib.sha256(repr(settings).encode()).hexdigest()
    run = _State(state, stamp, (len(index) + 1, *counts.shape), counts.dtype)
    with ThreadPoolExecutor(workers) as pool:

        def count() -> None:
            run.batches += 1
            run.save()
            progress(run.batches, mine * len(rounds))

        for number in range(run.batches // max(mine, 1), len(rounds)):
            own = {tail.group: kept[tail.group] for tail in rounds[number]}
            pieces = _pieces(groups, scores, own, index, workers)
            start, baseline = run.batches - number * mine, number == 0
            ahead = pool if workers > 1 else None
            _measure_round(groups, data, executor, run, rounds[number], pieces, start, baseline, ahead, count)
    run.save(force=True)
    summed, images = total(run.counts), int(total(np.array([run.images]))[0])
    curves = _curves(groups, scores, data, summed, images, kept, index, mode, dict(fingerprint or {}))
    if state is not None:
        state.unlink(missing_ok=True)
    return curves


@dataclass(frozen=True, eq=False)
class _Piece:
    """Points of one group that follow each other.

    Attributes:
        group: its name.
        rows: of the counts.
        alive: `ChannelGroups.keep` of each point, and of those of the group before.
    """

    group: str
    rows: Sequence[int]
    alive: Sequence[np.ndarray]

    @property
    def start(self) -> int:
        """How many points come before."""
        return len(self.alive) - len(self.rows)


_PIECES_A_WORKER = 4
"""At least, so that workers end together."""


def _pieces(
    groups: ChannelGroups, scores: Mapping[str, np.ndarray], kept: Mapping[str, list[int]],
    index: Mapping[tuple[str, int], int], workers: int,
) -> list[_Piece]:  # fmt: skip
    """All points in their order, in pieces for the workers: a group is one, or several where workers are many."""
    several = 1 if workers == 1 else -(-_PIECES_A_WORKER * workers // max(len(kept), 1))
    pieces = []
    for name, widths in kept.items():
        size = max(1, -(-len(widths) // several))
        alive = [groups.keep({name: keep_best(scores[name], k)}) for k in widths]
        for start in range(0, len(widths), size):
            few = widths[start : start + size]
            pieces.append(_Piece(name, [index[name, k] for k in few], alive[: start + size]))
    return pieces


@dataclass(frozen=True, eq=False)
class _Batch:
    """A batch and what the untouched model makes of it.

    Attributes:
        labelled: of the data, with the model's output as ``original``.
        values: that the tails read.
        output: of the model.
        points: of each group.
    """

    labelled: Mapping[str, Any]
    values: Values
    output: np.ndarray
    points: Mapping[str, Points]


@dataclass(frozen=True, eq=False)
class _Ready:
    """The model and the tails of a round, made ready for an engine.

    Attributes:
        size: of the images that they take; None for any.
        head: of the model.
        points: of each group.
    """

    size: tuple[int, ...] | None
    head: Head
    points: Mapping[str, Points]

    @classmethod
    def of(
        cls, groups: ChannelGroups, data: Data, executor: Executor, tails: Sequence[Tail], size: tuple[int, ...] | None
    ) -> _Ready:
        """Made ready for images of this size, the sample size, or of any."""
        tensors, sized = dict(groups.model.tensors()), size is not None
        points = {tail.group: tail.ready(executor, tensors, sized) for tail in tails}
        return cls(size, Head(groups, tails, executor, data.outputs, sized), points)

    def run(self, labelled: Mapping[str, Any]) -> _Batch | None:
        """What the model makes of a batch; None for images that this does not take."""
        images = np.asarray(labelled["img"])
        if self.size not in (None, images.shape[1:]):
            return None
        values, output = self.head.run(images)
        return _Batch({**labelled, "original": output}, values, output, self.points)


def _round(
    groups: ChannelGroups, data: Data, executor: Executor, tails: Sequence[Tail], start: int, idle: Callable[[], None]
) -> Iterator[_Batch]:
    """The batches from number ``start`` on, with these tails made ready.

    They are made for images of the sample size, until others come: engines take faster kernels for sizes they know.
    ``idle`` is called before, to wait until nothing else runs.
    """
    sample, ready = groups.sizes.shape(groups.model.eval_graph.inputs[0])[1:], None
    for labelled in data.batches(start):
        batch = ready.run(labelled) if ready else None
        if batch is None:
            idle()
            size = sample if ready is None and np.asarray(labelled["img"]).shape[1:] == sample else None
            ready = _Ready.of(groups, data, executor, tails, size)
            batch = ready.run(labelled)
            assert batch is not None
        yield batch


def _measure_round(
    groups: ChannelGroups, data: Data, executor: Executor, run: _State, tails: Sequence[Tail], pieces: Sequence[_Piece],
    start: int, baseline: bool, pool: ThreadPoolExecutor | None, count: Callable[[], None],
) -> None:  # fmt: skip
    """Measure these pieces on the batches from number ``start`` on; what is made ready for them is free at the end.

    Args:
        groups, data, executor: as in `analyse`.
        run: what is added to.
        tails: of the round.
        pieces: of their points.
        start: the first batch.
        baseline: whether the untouched model is measured as well.
        pool: takes the pieces of a batch while the next one is read and run; None to take them one after the other.
        count: called when a batch is done.
    """
    waiting: list[Future[None]] = []

    def finish() -> None:
        for future in waiting:
            future.result()
        if waiting:
            waiting.clear()
            count()

    try:
        for batch in _round(groups, data, executor, tails, start, finish):
            finish()
            if baseline:
                _add(data, run, 0, batch.output, batch.labelled)
                run.images += len(batch.labelled["img"])
            if pool and pieces:
                waiting.extend(pool.submit(_measure, data, run, batch, piece) for piece in pieces)
                continue
            for piece in pieces:
                _measure(data, run, batch, piece)
            count()
        finish()
    finally:
        for future in waiting:
            future.cancel()


def _measure(data: Data, run: _State, batch: _Batch, piece: _Piece) -> None:
    """Add one batch to the counts of the points of a piece."""
    points = batch.points[piece.group](batch.values, batch.output, piece.alive, piece.start)
    for row, output in zip(piece.rows, points, strict=True):
        _add(data, run, row, output, batch.labelled)


def kept_at(width: int, ratios: Sequence[float]) -> list[int]:
    """Channels left of ``width`` at each ratio removed, descending."""
    return sorted({max(1, round(width * (1 - ratio))) for ratio in ratios} - {width}, reverse=True)


def _add(data: Data, run: _State, row: int, output: np.ndarray, batch: Mapping[str, Any]) -> None:
    metric = data.accumulator()
    metric.update(output, batch)
    run.counts[row] += metric.counts


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
