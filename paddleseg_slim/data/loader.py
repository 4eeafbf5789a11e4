"""Batches for training, in an order that is a function of the seed alone, from any iteration on."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np

from paddleseg_slim.errors import UserError


def collate(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Make one batch of samples: arrays and numbers are stacked to ``[N, ...]``, all else becomes a list of N.

    Raises:
        UserError: the arrays under one name differ in shape; the message names the samples.
    """
    batch: dict[str, Any] = {}
    for key, first in samples[0].items():
        values = [sample[key] for sample in samples]
        if not isinstance(first, (np.ndarray, np.number)):
            batch[key] = values
            continue
        for sample, value in zip(samples, values):
            if np.shape(value) != np.shape(first):
                raise UserError(
                    f"{key} of {sample.get('name')} has the shape {list(np.shape(value))}, "
                    f"of {samples[0].get('name')} {list(np.shape(first))}: they do not fit into one batch.",
                    "Add a transform that makes the sizes equal (RandomPaddingCrop, Resize) to train_dataset.",
                )
        batch[key] = np.stack(values)
    return batch


class Loader:
    """Endless batches of a dataset.

    Epoch e runs over a permutation that depends on ``(seed, e)`` alone, and a sample is a function of
    ``(seed, epoch, index)``: the batches are the same with any number of workers and after a resume. With several
    ranks, each takes its part of every global batch of ``batch_size * world_size`` samples.

    Workers are threads: what takes time in reading and transforming (NumPy, OpenCV, Pillow) runs beside the training
    step, nothing is copied between processes, and no shared memory can run out.

    Args:
        dataset: ``dataset[(epoch, index)]`` gives a sample, a dict.
        batch_size: samples in a batch, of one rank.
        shuffle: False keeps the order of the dataset.
        drop_last: leave out the last, smaller batch of an epoch.
        seed: of the order.
        num_workers: how many threads prepare batches ahead; 0 prepares each when it is asked for.
        start_iter: how many batches were taken before; iteration goes on with the next.
        rank: number of this process.
        world_size: number of processes.

    Raises:
        UserError: the dataset has not enough samples for one batch.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        *,
        shuffle: bool = True,
        drop_last: bool = True,
        seed: int = 0,
        num_workers: int = 0,
        start_iter: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("num_workers", num_workers, 0),
            ("start_iter", start_iter, 0),
            ("world_size", world_size, 1),
        ):
            if value < least:
                raise UserError(f"{name} is {value}.", f"Give at least {least}.")
        if not 0 <= rank < world_size:
            raise UserError(f"rank is {rank} of {world_size} processes.", "Ranks count from 0.")
        self.dataset = dataset
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.num_workers = num_workers
        self.start_iter = start_iter
        self.rank = rank
        self.world_size = world_size
        whole, rest = divmod(len(dataset), batch_size * world_size)
        # a rest that does not reach every rank is left out, or the ranks would not step together
        self.batches_per_epoch = whole + int(not drop_last and rest >= world_size)
        if self.batches_per_epoch == 0:
            ranks = f" on each of {world_size} devices" if world_size > 1 else ""
            raise UserError(
                f"The dataset has {len(dataset)} samples, fewer than a batch of {batch_size}{ranks}.",
                "Lower the batch size or give more data.",
            )
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))

    def _permutation(self, epoch: int) -> np.ndarray:
        if not self.shuffle:
            return np.arange(len(self.dataset))
        if self._order[0] != epoch:
            self._order = (epoch, np.random.default_rng([self.seed, epoch]).permutation(len(self.dataset)))
        return self._order[1]

    def keys(self, step: int) -> list[tuple[int, int]]:
        """The ``(epoch, index)`` of the samples of batch ``step``, which counts from 0 over all epochs."""
        epoch, place = divmod(step, self.batches_per_epoch)
        span = self.batch_size * self.world_size
        chunk = self._permutation(epoch)[place * span : (place + 1) * span]
        first = len(chunk) * self.rank // self.world_size
        last = len(chunk) * (self.rank + 1) // self.world_size
        return [(epoch, int(index)) for index in chunk[first:last]]

    def _batch(self, keys: Sequence[tuple[int, int]]) -> dict[str, Any]:
        return collate([self.dataset[key] for key in keys])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        step = self.start_iter
        if self.num_workers == 0:
            while True:
                yield self._batch(self.keys(step))
                step += 1
        cv2.setNumThreads(1)  # the workers are the parallelism; threads below threads slow each other down
        pool = ThreadPoolExecutor(self.num_workers, thread_name_prefix="loader")
        ahead: deque[Future[dict[str, Any]]] = deque()
        try:
            while True:
                while len(ahead) <= 2 * self.num_workers:
                    ahead.append(pool.submit(self._batch, self.keys(step)))
                    step += 1
                yield ahead.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
