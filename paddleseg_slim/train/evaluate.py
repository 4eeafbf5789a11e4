"""Evaluate anything that maps images to outputs: a Layer, a GraphLayer, an exported file in an engine."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import paddle

from paddleseg_slim.errors import UserError
from paddleseg_slim.tasks.base import Accumulator, Forward, Metrics, Task
from paddleseg_slim.train import ranks
from paddleseg_slim.train.progress import Progress

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
        forward: images float32 ``[N, 3, H, W]`` to outputs.
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
    forward = task.inference(forward, settings or {})
    accumulators = task.accumulators(settings or {})
    rank, world = paddle.distributed.get_rank(), paddle.distributed.get_world_size()
    with Progress(len(range(rank, len(dataset), world)), f"[EVAL] {title}") as progress:
        for batch in batches(dataset, batch_size, num_workers, rank, world):
            outputs = forward(batch["img"])
            for accumulator in accumulators:
                accumulator.update(outputs, batch)
            progress.step(len(batch["img"]))
    if world > 1:
        for accumulator in accumulators:
            _sum_over_ranks(accumulator)
    first, *others = (accumulator.result() for accumulator in accumulators)
    return replace(first, values={**first.values, **{k: v for other in others for k, v in other.values.items()}})


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
    with ThreadPoolExecutor(num_workers) as pool:
        ahead: deque[Future[dict[str, Any]]] = deque()
        for index in indices:
            ahead.append(pool.submit(dataset.__getitem__, index))
            if len(ahead) > 2 * num_workers + 8:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


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
