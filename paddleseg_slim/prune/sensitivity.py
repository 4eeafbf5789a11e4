"""How much each group matters: the metric with a part of its channels gated, for every group and ratio.

Batches are the outer loop, groups and ratios the inner one. A batch is read and prepared once; the values on which
gated parts start are computed once (`_Prefix`); for every point only what depends on the group's gates runs again.
The metric's counts add up over batches, and counts and batch number are all that is stored, so a killed analysis goes
on where it was.
"""

from __future__ import annotations

import hashlib
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from paddleseg_slim.errors import UserError
from paddleseg_slim.files import atomic_file
from paddleseg_slim.graph.executor import Executor, Runner
from paddleseg_slim.graph.ir import Value
from paddleseg_slim.graph.part import extract, split
from paddleseg_slim.prune.channels import ChannelGroups
from paddleseg_slim.prune.criteria import keep_best
from paddleseg_slim.prune.curves import Curves, GroupCurve
from paddleseg_slim.prune.gates import Gate, insert_gates

EXACT_RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
FAST_RATIOS = (0.25, 0.5, 0.75)
_SAVE_EVERY_SECONDS = 20.0


class Counts(Protocol):
    """A metric as counts that add up (`tasks.base.Accumulator`)."""

    counts: np.ndarray
    images: int

    def update(self, outputs: Any, batch: Mapping[str, Any]) -> None:
        """Add a batch."""
        ...

    def result(self) -> Any:
        """Metrics; has ``score``, higher is better, ``primary`` and ``values``."""
        ...


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


class DivergenceCounts:
    """Label-free metric: how far the outputs move, as KL(original || gated) summed over positions.

    ``score`` is 1 minus the mean divergence, so that the loss of a point is the divergence itself.
    """

    def __init__(self) -> None:
        self.counts = np.zeros(2)
        self.images = 0

    def update(self, outputs: Any, batch: Mapping[str, Any]) -> None:
        """Add logits ``[N, C, ...]``; ``batch["original"]`` holds those of the untouched model."""
        p, q = _log_softmax(np.asarray(batch["original"])), _log_softmax(np.asarray(outputs))
        divergence = (np.exp(p) * (p - q)).sum(axis=1)
        self.counts += [float(divergence.sum()), divergence.size]
        self.images += len(divergence)

    def result(self) -> Any:
        """A result with ``score``, ``primary`` and ``values``."""
        mean = self.counts[0] / max(self.counts[1], 1.0)
        return _Divergence(1.0 - mean, "divergence", {"divergence": mean})


@dataclass(frozen=True)
class _Divergence:
    score: float
    primary: str
    values: dict[str, float]


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


@dataclass(frozen=True, eq=False)
class _Suffix:
    """What depends on the gates of one group."""

    run: Runner | None
    feeds: tuple[str, ...]
    gates: tuple[Gate, ...]


class _Points:
    """Prefix and suffixes of a model, made ready for an engine."""

    def __init__(
        self, groups: ChannelGroups, names: Sequence[str], executor: Executor, pick: Callable[[Any], Any]
    ) -> None:
        model = groups.model
        graph = model.eval_graph
        wanted = pick(graph.outputs)
        if not isinstance(wanted, Value):
            raise TypeError("the metric must be of one output of the model")
        self.wanted = wanted.name
        tensors = dict(model.tensors())
        needed: dict[str, None] = {self.wanted: None}
        self.suffixes: dict[str, _Suffix] = {}
        for name in names:
            gated = insert_gates(groups, [name])
            gates = tuple(gated.of(name))
            changed = [gate.value for gate in gates]
            output = pick(gated.graph.outputs)
            gated.graph.outputs = {output.name: output}
            if not any(output in node.output_values() for node in gated.graph.dependents(changed)):
                self.suffixes[name] = _Suffix(None, (), gates)  # nothing that counts reads this group
                continue
            _, suffix = split(gated.graph, changed)
            fed = tuple(v.name for v in suffix.inputs if v.name not in {g.value.name for g in gates})
            needed.update(dict.fromkeys(fed))
            parameters = {n: tensors[n] for n in suffix.parameters}
            self.suffixes[name] = _Suffix(executor.prepare(suffix, parameters), fed, gates)
        self.inputs = [v.name for v in graph.inputs]  # a suffix may ask for their size
        prefix = extract(graph, graph.inputs, [graph.value(n) for n in needed if n not in self.inputs])
        self.prefix = executor.prepare(prefix, {n: tensors[n] for n in prefix.parameters})

    def start(self, batch: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Values on which the gated parts start, and the output of the untouched model."""
        images = {self.inputs[0]: np.asarray(batch["img"])}
        return {**self.prefix(images), **images}

    def point(self, name: str, values: Mapping[str, np.ndarray], alive: np.ndarray) -> np.ndarray:
        """Output of the model with the channels that are not ``alive`` gated."""
        suffix = self.suffixes[name]
        if suffix.run is None:
            return values[self.wanted]
        feeds = {n: values[n] for n in suffix.feeds}
        feeds.update((gate.value.name, gate.array(alive)) for gate in suffix.gates)
        return next(iter(suffix.run(feeds).values()))


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
        mode: name for the record.
        ratios: parts of a group's channels that are removed.
        state: file in which the analysis is kept while it runs; removed at its end.
        fingerprint: what the result is valid for.
        progress: called with points done and all.
        rank, world: which share of the batches this process takes.
        total: sums an array over the processes.

    Raises:
        UserError: the model is not trained, or ``state`` is of another analysis.
    """
    names = [g.name for g in groups.groups if g.name in scores]
    kept = {n: _kept(groups.by_name[n].width, ratios) for n in names}
    points = _Points(groups, names, executor, data.outputs)
    alive = {(n, k): groups.keep({n: keep_best(scores[n], k)}) for n in names for k in kept[n]}
    index = {key: number + 1 for number, key in enumerate(alive)}
    counts = data.accumulator().counts
    stamp = hashlib.sha256(repr([fingerprint, mode, list(index), rank, world]).encode()).hexdigest()
    run = _State(state, stamp, (len(index) + 1, *counts.shape), counts.dtype)
    mine = len(range(rank, data.count, world))
    for batch in data.batches(run.batch):
        values = points.start(batch)
        _add(data, run, 0, values[points.wanted], {**batch, "original": values[points.wanted]})
        for (name, k), number in index.items():
            output = points.point(name, values, alive[name, k])
            _add(data, run, number, output, {**batch, "original": values[points.wanted]})
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


def _kept(width: int, ratios: Sequence[float]) -> list[int]:
    return sorted({max(1, round(width * (1 - ratio))) for ratio in ratios} - {width}, reverse=True)


def _add(data: Data, run: _State, number: int, output: np.ndarray, batch: Mapping[str, Any]) -> None:
    metric = data.accumulator()
    metric.update(output, batch)
    run.counts[number] += metric.counts


def _score(data: Data, counts: np.ndarray, images: int) -> Any:
    metric = data.accumulator()
    metric.counts, metric.images = counts, images
    return metric.result()


def _curves(
    groups: ChannelGroups, scores: Mapping[str, np.ndarray], data: Data, counts: np.ndarray, images: int,
    kept: Mapping[str, list[int]], index: Mapping[tuple[str, int], int], mode: str, fingerprint: dict[str, Any],
) -> Curves:  # fmt: skip
    baseline = _score(data, counts[0], images)
    check_trained(baseline)
    table = {}
    for name, widths in kept.items():
        losses = [
            (baseline.score - _score(data, counts[index[name, k]], images).score) / baseline.score for k in widths
        ]
        order = np.argsort(scores[name], kind="stable").tolist()
        table[name] = GroupCurve(groups.by_name[name].width, list(widths), [float(x) for x in losses], order)
    return Curves(mode, baseline.primary, float(baseline.score), images, table, fingerprint)


def baseline(groups: ChannelGroups, data: Data, executor: Executor) -> Any:
    """The metric of the untouched model, checked by `check_trained`."""
    points = _Points(groups, [], executor, data.outputs)
    metric = data.accumulator()
    for batch in data.batches(0):
        output = points.start(batch)[points.wanted]
        metric.update(output, {**batch, "original": output})
    result = metric.result()
    check_trained(result)
    return result
