"""Sums over the processes of ``paddle.distributed.launch``, however late one of them comes.

Gloo, Paddle's way between CPU processes, gives up when a partner is thirty seconds late, and one rank may well be:
the first exports, writes and measures while the others wait for it. So they meet at the store of the launcher first.
"""

from __future__ import annotations

import itertools
import time

import numpy as np
import paddle
from paddle.base import core

_meetings = itertools.count()
_PAUSE = 0.02
"""Most seconds between two looks at who is there; the first ones are shorter: there is a meeting at every log line."""


def meet() -> None:
    """Return when every rank has called this as often; at once where there is one rank.

    There is no time limit: the launcher ends the others when one process dies.
    """
    world = paddle.distributed.get_world_size()
    if world == 1:
        return
    store, key = core.create_or_get_global_tcp_store(), f"paddleseg_slim/meeting/{next(_meetings)}"
    there, pause = store.add(key, 1), _PAUSE / 64
    while there < world:
        time.sleep(pause)
        there, pause = store.add(key, 0), min(2 * pause, _PAUSE)


def total(array: np.ndarray) -> np.ndarray:
    """Return the sum of the ranks' arrays, of the same shape and dtype; the array itself where there is one rank."""
    if paddle.distributed.get_world_size() == 1:
        return array
    meet()
    tensor = paddle.to_tensor(array)
    paddle.distributed.all_reduce(tensor)
    return np.asarray(tensor.numpy())


def of_the_first(array: np.ndarray) -> np.ndarray:
    """Return the first rank's array on all ranks; they give arrays of the same shape and dtype."""
    return total(array if paddle.distributed.get_rank() == 0 else np.zeros_like(array))
