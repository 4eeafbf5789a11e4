"""Channel ids: which channel an element of a tensor belongs to, and which channels must live or die together.

Every axis of a parameter that may be pruned gets fresh integers. A tensor's labels are *factors*: each names some of
its axes and holds an array of ids over them. An axis in no factor is fixed: nothing on it can be removed. Ids that
must stay or go together are united; ids that must stay are pinned, with the reason. The components of the unions are
what can be pruned.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components


@dataclass(frozen=True, eq=False)
class Factor:
    """Ids over some axes of a tensor.

    Attributes:
        axes: ascending.
        ids: int64, one axis for each of ``axes``, of that axis's size.
    """

    axes: tuple[int, ...]
    ids: np.ndarray


Labels = tuple[Factor, ...]
"""The labels of one tensor: factors over disjoint sets of axes."""

FIXED: Labels = ()
"""The labels of a tensor on which nothing can be removed."""


def factor_at(labels: Labels, axis: int) -> Factor | None:
    """The factor that covers ``axis``; None when the axis is fixed."""
    return next((factor for factor in labels if axis in factor.axes), None)


def moved(labels: Labels, places: Sequence[int | None]) -> Labels:
    """Labels after axis ``i`` went to axis ``places[i]`` (a permutation, or insertions of axes of size 1).

    Args:
        places: for each old axis its new number; None for an axis of no factor that disappears.
    """
    result = []
    for factor in labels:
        axes = [place for place in (places[a] for a in factor.axes) if place is not None]
        if len(axes) < len(factor.axes):
            raise ValueError(f"an axis that carries ids disappears: {factor.axes} -> {axes}")
        order = np.argsort(axes)
        result.append(Factor(tuple(int(axes[i]) for i in order), factor.ids.transpose(order)))
    return tuple(result)


def expanded(factor: Factor, axes: Sequence[int], sizes: Sequence[int]) -> np.ndarray:
    """Ids of ``factor`` broadcast over ``axes`` (a superset of its own) of the given sizes."""
    shape = [factor.ids.shape[factor.axes.index(a)] if a in factor.axes else 1 for a in axes]
    return np.broadcast_to(factor.ids.reshape(shape), list(sizes))


class Ids:
    """All ids of a model, the unions among them and the pins.

    Attributes:
        reasons: text of every pin, in the order in which pins were made.
    """

    def __init__(self) -> None:
        self.count = 0
        self.reasons: list[str] = []
        self._pairs: list[tuple[np.ndarray, np.ndarray]] = []
        self._pins: list[np.ndarray] = []

    def fresh(self, *shape: int) -> np.ndarray:
        """New ids in an array of this shape."""
        size = int(np.prod(shape))
        ids = np.arange(self.count, self.count + size, dtype=np.int64).reshape(shape)
        self.count += size
        return ids

    def unite(self, a: np.ndarray, b: np.ndarray) -> None:
        """Unite the ids of two arrays element by element (NumPy broadcasting)."""
        if a is b:
            return
        left, right = np.broadcast_arrays(a, b)
        different = left != right
        if different.any():
            self._pairs.append((left[different], right[different]))

    def unite_along(self, ids: np.ndarray, axis: int) -> None:
        """Unite all ids along one axis."""
        if ids.shape[axis] > 1:
            self.unite(ids, ids.take([0], axis=axis))

    def pin(self, ids: np.ndarray, reason: str) -> None:
        """Forbid that any of these ids is removed."""
        if ids.size:
            self._pins.append(np.unique(ids))
            self.reasons.append(reason)

    def components(self) -> np.ndarray:
        """The component of every id, int64 ``[count]``."""
        if not self._pairs:
            return np.arange(self.count, dtype=np.int64)
        rows = np.concatenate([a for a, _ in self._pairs])
        columns = np.concatenate([b for _, b in self._pairs])
        links = sparse.coo_matrix((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=(self.count, self.count))
        return connected_components(links, directed=False)[1].astype(np.int64)

    def pinned(self, components: np.ndarray) -> dict[int, str]:
        """First reason of every pinned component."""
        found: dict[int, str] = {}
        for ids, reason in zip(self._pins, self.reasons):
            for component in np.unique(components[ids]):
                found.setdefault(int(component), reason)
        return found


def disjoint_sets(sets: Iterable[Iterable[int]]) -> list[tuple[int, ...]]:
    """Merge sets that overlap until none do; each result ascending, in order of the smallest element."""
    merged: list[set[int]] = []
    for new in map(set, sets):
        apart = [other for other in merged if not other & new]
        merged = [*apart, new.union(*(other for other in merged if other & new))]
    return sorted(tuple(sorted(item)) for item in merged)
