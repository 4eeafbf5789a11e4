"""Which channels the others can stand in for: removed one after the other, each time the one that is missed least.

What a layer that reads the channels loses by the removal of some, when its weights on the others become the best
possible ones, is a closed form of the second moments of what it reads (Hassibi and Stork, 1993, Optimal Brain Surgeon;
layer by layer: Dong et al., 2017, L-OBS; for whole structures: Kurtic et al., 2023, ZipLM). With H their covariance,
removing the rows S of the weight W costs ``W_S' ((H^-1)_SS)^-1 W_S``, and the rest moves by ``-(H^-1)_:S ((H^-1)_SS)^-1
W_S``. A group's cost is the sum over its readers, each relative to the variance of its output.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from paddleseg_slim.prune.readers import Reader

_TOGETHER = 32
"""One in so many of the channels left goes at a time."""

_LEAST = 1e-12
"""Cost from which the order of removal begins where nothing is lost."""


class _Left:
    """One reader while channels go: inverse covariance and weight, in which the rows removed are those of nothing."""

    def __init__(self, reader: Reader) -> None:
        self.inverse = np.linalg.inv(reader.covariance)
        self.weight = reader.weight / np.sqrt(reader.variance)
        self.rows = reader.rows
        self._gone = np.zeros(self.weight.shape[1], dtype=bool)

    def costs(self) -> np.ndarray:
        """Of removing each channel that is left."""
        blocks = self.inverse[:, self.rows[:, :, None], self.rows[:, None, :]]
        own = self.weight[:, self.rows]
        return np.asarray((own * np.linalg.solve(blocks, own)).sum(axis=(0, 2, 3)))

    def remove(self, channels: np.ndarray) -> None:
        """Remove channels, by their number among those left."""
        gone = self.rows[channels].reshape(-1)
        beside = self.inverse[:, gone]
        across = np.linalg.solve(beside[:, :, gone], beside).transpose(0, 2, 1)
        self.weight -= across @ self.weight[:, gone]
        self.inverse -= across @ beside
        self.weight[:, gone] = 0
        self.inverse[:, gone, gone] = 1
        self._gone[gone] = True
        self.rows = np.delete(self.rows, channels, axis=0)
        if 2 * self._gone.sum() > len(self._gone):
            self._compress()

    def _compress(self) -> None:
        """Leave out the rows removed."""
        stay = np.flatnonzero(~self._gone)
        self.weight, self.inverse = self.weight[:, stay], self.inverse[:, stay[:, None], stay]
        self.rows, self._gone = np.searchsorted(stay, self.rows), self._gone[stay]


def elimination(readers: Sequence[Reader]) -> np.ndarray:
    """Scores of a group's channels ``[width]``: the cost of the removal of each, no less than that of the one before.

    Args:
        readers: of the group, at least one.
    """
    left = [_Left(reader) for reader in readers]
    width = len(readers[0].rows)
    channels, scores, least = np.arange(width), np.zeros(width), _LEAST
    while len(channels):
        costs = np.sum([item.costs() for item in left], axis=0)
        next_ones = np.argsort(costs, kind="stable")[: max(1, len(channels) // _TOGETHER)]
        for number in next_ones:
            least = max(float(costs[number]), least * (1 + 1e-9))  # no two are equal: the order is that of removal
            scores[channels[number]] = least
        for item in left:
            item.remove(np.sort(next_ones))
        channels = np.delete(channels, next_ones)
    return scores


def eliminations(
    readers: Mapping[str, Sequence[Reader]], progress: Callable[[int, int], None] = lambda done, total: None
) -> dict[str, np.ndarray]:
    """`elimination` of every group that has a reader."""
    found = {}
    for number, (name, own) in enumerate(readers.items()):
        progress(number, len(readers))
        if own:
            found[name] = elimination(own)
    return found
