"""Evaluate anything that maps images to outputs: a Layer, a GraphLayer, an exported file in an engine."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import paddle

from paddleseg_slim.errors import UserError
from paddleseg_slim.tasks.base import Accumulator, Forward, Metrics, Task
from paddleseg_slim.train import ranks
from paddleseg_slim.train.progress import Progress

_T = TypeVar("_T")
_U = TypeVar("_U")

_STACKED = (np.ndarray, np.generic, int, float)
"""Kinds of a sample's entries that become one array in a batch."""


def model_forward(model: paddle.nn.Layer, *, autocast: str | None = None) -> Forward:
    """Make a `Forward` of a Layer: evaluation mode, no gradients, NumPy in and out.

    Args:
        model: its mode is that of the caller outside the call.
        autocast: level of mixed precision, ``O1`` or ``O2``; None for float32.
    """

    def forward(images: np.ndarray) -> Any:
        training = model.training
        model.eval()
        try:
            with paddle.no_grad(), paddle.amp.auto_cast(enable=autocast is not None, level=autocast or "O1"):
                return to_numpy(model(paddle.to_tensor(images)))
        finally:
            if training:
                model.train()

    return forward


def to_numpy(outputs: Any) -> Any:
    """Tensors in lists, tuples and dicts as NumPy arrays, in the same structure."""
    if isinstance(outputs, (list, tuple)):
        return type(outputs)(to_numpy(item) for item in outputs)
    if isinstance(outputs, dict):
        return {key: to_numpy(item) for key, item in outputs.items()}
    if not isinstance(outputs, paddle.Tensor):
        return outputs
    return (outputs if outputs.dtype != paddle.bfloat16 else outputs.astype("float32")).numpy()


def evaluate(
    forward: Forward,
    task: Task,
    dataset: Any = None,
    *,
    batch_size: int = 8,
    num_workers: int = 1,
    settings: Mapping[str, Any] | None = None,
    title: str = "Evaluating",
) -> Metrics:
    """Measure ``forward`` on ``dataset``.

    With several ranks (``paddle.distributed``) each evaluates its share and the counts are summed.

    Args:
        forward: images float32 ``[N, 3, H, W]`` to outputs; an attribute ``at_once`` above 1 says how many threads may
            call it at the same time, each with a part of a batch.
        task: whose metric counts.
        dataset: samples by index; the task's validation set when None.
        batch_size: the most images at once; only images of one size are put together.
        num_workers: threads that prepare samples ahead of the model.
        settings: how to infer, in the task's own terms (``test_config``: sliding window, scales, flips).
        title: what the progress says.

    Raises:
        UserError: the dataset is empty, or the task does not know a setting.
    """
    dataset = task.val_dataset() if dataset is None else dataset
    if len(dataset) == 0:
        raise UserError("The dataset to evaluate on is empty.", "Check val_dataset in the config.")
    at_once = min(getattr(forward, "at_once", 1), batch_size)
    forward = task.inference(forward, settings or {})
    accumulators = task.accumulators(settings or {})
    rank, world = paddle.distributed.get_rank(), paddle.distributed.get_world_size()
    with Progress(len(range(rank, len(dataset), world)), f"[EVAL] {title}") as progress:
        size = batch_size if at_once < 2 else max(1, batch_size // (at_once + 2))  # running, waiting and just counted
        for batch, outputs in _outputs(forward, batches(dataset, size, num_workers, rank, world), at_once):
            for accumulator in accumulators:
                accumulator.update(outputs, batch)
            progress.step(len(batch["img"]))
    if world > 1:
        for accumulator in accumulators:
            _sum_over_ranks(accumulator)
    first, *others = (accumulator.result() for accumulator in accumulators)
    return replace(first, values={**first.values, **{k: v for other in others for k, v in other.values.items()}})


def _outputs(forward: Forward, made: Iterator[dict[str, Any]], at_once: int) -> Iterator[tuple[dict[str, Any], Any]]:
    """Yield batches with their outputs in order, ``at_once`` of them side by side."""

    def both(batch: dict[str, Any]) -> tuple[dict[str, Any], Any]:
        return batch, forward(batch["img"])

    yield from (map(both, made) if at_once < 2 else _ahead(both, made, at_once, more=1))


def _ahead(function: Callable[[_T], _U], items: Iterable[_T], threads: int, more: int) -> Iterator[_U]:
    """Yield ``function`` of each item in order, from ``threads`` that are up to ``more`` items ahead of the reader."""
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[_U]] = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > threads + more:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _sum_over_ranks(accumulator: Accumulator) -> None:
    counts = ranks.total(np.append(accumulator.counts.ravel(), accumulator.images))
    accumulator.counts = counts[:-1].reshape(accumulator.counts.shape)
    accumulator.images = int(counts[-1])


def batches(
    dataset: Any, batch_size: int = 8, num_workers: int = 1, rank: int = 0, world: int = 1
) -> Iterator[dict[str, Any]]:
    """Yield the samples ``rank, rank + world, ...`` in order, those that follow each other with equal shapes together.

    Entries of a batch: arrays stacked to ``[N, ...]``; anything else a list of N.
    """
    waiting: list[dict[str, Any]] = []
    for sample in _samples(dataset, range(rank, len(dataset), world), num_workers):
        if waiting and (len(waiting) == batch_size or _shapes(sample) != _shapes(waiting[0])):
            yield _collate(waiting)
            waiting = []
        waiting.append(sample)
    if waiting:
        yield _collate(waiting)


def _samples(dataset: Any, indices: range, num_workers: int) -> Iterator[dict[str, Any]]:
    if num_workers < 1:
        yield from (dataset[index] for index in indices)
        return
    yield from _ahead(dataset.__getitem__, indices, num_workers, num_workers + 8)


def _shapes(sample: Mapping[str, Any]) -> list[Any]:
    """What the samples of a batch share: shapes of arrays, and lists such as ``trans_info``; names may differ."""
    kinds = {key: np.shape(value) if isinstance(value, _STACKED) else repr(value) for key, value in sample.items()}
    return [(key, kind) for key, kind in kinds.items() if not isinstance(sample[key], str)]


def _collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    first = samples[0]
    return {
        key: np.stack([sample[key] for sample in samples])
        if isinstance(value, _STACKED)
        else [sample[key] for sample in samples]
        for key, value in first.items()
    }
