"""How important each channel of a group is: criteria by name, and the loss curve that a ranking alone predicts.

A criterion sees one group at a time (`GroupWeights`) and gives one score for every channel; the lowest are pruned
first. It returns None for a group it cannot judge (a BatchNorm criterion where there is no BatchNorm), and the caller
leaves that group as it is and says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Optional

import numpy as np

from paddleseg_slim.registry import Registry

CRITERIA = Registry("pruning criterion")


@dataclass(frozen=True)
class GroupWeights:
    """What a criterion may look at, channel first everywhere.

    Attributes:
        filters: for each layer that writes the channels, its weights as ``[channels, fan_in]``.
        scales: the scale of each BatchNorm that the channels go through, ``[channels]``.
        gate_gradients: gradient of the loss with respect to a gate of one on every channel, one row a sample,
            ``[samples, channels]``; only the criteria `needs_gradients` names read it.
        elimination: cost of removing each channel ``[channels]`` (`elimination.elimination`); only ``obs`` reads it.
        rng: the source of `random`.
    """

    filters: Sequence[np.ndarray]
    scales: Sequence[np.ndarray] = ()
    gate_gradients: np.ndarray | None = None
    elimination: np.ndarray | None = None
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))


Criterion = Callable[[GroupWeights], Optional[np.ndarray]]


def needs_gradients(name: str) -> bool:
    """Whether the criterion reads `GroupWeights.gate_gradients`."""
    return name in ("taylor", "fisher")


def needs_readers(name: str) -> bool:
    """Whether the criterion reads `GroupWeights.elimination`."""
    return name == "obs"


def needs_sparse_training(name: str) -> bool:
    """Whether the criterion means little unless the scales of BatchNorm were trained towards zero before."""
    return name in ("bn_scale", "opt_slim")


def _combine(layers: Sequence[np.ndarray]) -> np.ndarray | None:
    """Average the scores of several layers, each divided by its mean: a wide layer does not outvote the others."""
    if not layers:
        return None
    if len(layers) == 1:
        return np.asarray(layers[0], dtype=np.float64)
    parts = [np.asarray(layer, dtype=np.float64) for layer in layers]
    return np.mean([part / max(float(part.mean()), 1e-300) for part in parts], axis=0)


@CRITERIA.register("l1_norm")
def l1_norm(group: GroupWeights) -> np.ndarray | None:
    """Sum of |w| of the filter that writes the channel (Li et al., 2017, Pruning Filters for Efficient ConvNets)."""
    return _combine([np.abs(f).sum(axis=1, dtype=np.float64) for f in group.filters])


@CRITERIA.register("l2_norm")
def l2_norm(group: GroupWeights) -> np.ndarray | None:
    """Euclidean norm of the filter (He et al., 2018, Soft Filter Pruning)."""
    return _combine([np.sqrt(np.square(f, dtype=np.float64).sum(axis=1)) for f in group.filters])


def _distance_to_others(filters: np.ndarray) -> np.ndarray:
    """Sum of the Euclidean distances from each row to all rows, through one Gram matrix."""
    rows = np.asarray(filters, dtype=np.float64)
    rows = rows - rows.mean(axis=0)  # distances stay the same, the cancellation below gets smaller
    squares = np.einsum("ij,ij->i", rows, rows)
    distances = squares[:, None] + squares[None, :] - 2.0 * (rows @ rows.T)
    np.fill_diagonal(distances, 0.0)
    return np.sqrt(np.maximum(distances, 0.0)).sum(axis=1)


@CRITERIA.register("fpgm", "geometry_median")
def fpgm(group: GroupWeights) -> np.ndarray | None:
    """Distance to the geometric median: a filter near all others is redundant (He et al., 2019, FPGM)."""
    return _combine([_distance_to_others(f) for f in group.filters])


@CRITERIA.register("bn_scale")
def bn_scale(group: GroupWeights) -> np.ndarray | None:
    """|gamma| of BatchNorm (Liu et al., 2017, Network Slimming); its scales must have been trained sparse."""
    return np.mean([np.abs(s, dtype=np.float64) for s in group.scales], axis=0) if group.scales else None


@CRITERIA.register("opt_slim")
def opt_slim(group: GroupWeights) -> np.ndarray | None:
    """Share of gamma squared held by a channel and all smaller ones (Ye et al., 2020, Optimal Thresholding).

    One threshold over all layers on this score is the optimal threshold of each layer by itself.
    """
    scale = bn_scale(group)
    if scale is None:
        return None
    energy = np.square(scale)
    order = np.argsort(energy, kind="stable")
    share = np.empty_like(energy)
    share[order] = np.cumsum(energy[order]) / max(float(energy.sum()), 1e-300)
    return share


def _gradients(group: GroupWeights) -> np.ndarray:
    if group.gate_gradients is None:
        raise ValueError("this criterion needs the gradients of the gates")
    return np.asarray(group.gate_gradients, dtype=np.float64)


@CRITERIA.register("taylor")
def taylor(group: GroupWeights) -> np.ndarray | None:
    """Mean over samples of |dL/dgate|: first-order change of the loss (Molchanov et al., 2019)."""
    return np.abs(_gradients(group)).mean(axis=0)


@CRITERIA.register("fisher")
def fisher(group: GroupWeights) -> np.ndarray | None:
    """Half the mean over samples of (dL/dgate)^2 (Theis et al., 2018; Liu et al., 2021, Group Fisher Pruning)."""
    return 0.5 * np.square(_gradients(group)).mean(axis=0)


@CRITERIA.register("obs")
def obs(group: GroupWeights) -> np.ndarray | None:
    """What the layers that read a channel lose although they make up for it (`elimination`: Optimal Brain Surgeon)."""
    return group.elimination


@CRITERIA.register("random")
def random(group: GroupWeights) -> np.ndarray | None:
    """A random order: what every criterion has to beat."""
    return group.rng.random(len(group.filters[0])) if group.filters else None


def keep_best(scores: np.ndarray, width: int) -> np.ndarray:
    """Ascending indices of the ``width`` channels with the highest scores; among equals the first ones stay."""
    return np.sort(removal_order(scores)[::-1][:width])


def removal_order(scores: np.ndarray) -> np.ndarray:
    """Channels from the one that goes first; among equals the last one does."""
    return np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")[::-1]


def normalised(scores: np.ndarray) -> np.ndarray:
    """Scores of a group divided by their mean, so that groups can be ranked against each other."""
    scores = np.asarray(scores, dtype=np.float64)
    mean = float(scores.mean()) if scores.size else 0.0
    return scores / mean if mean > 0 else np.zeros_like(scores)


def ranking_curve(scores: np.ndarray) -> np.ndarray:
    """Loss that a ranking predicts for every width: ``curve[w]`` is the sum of the scores removed to reach ``w``.

    Returns:
        float64 ``[channels + 1]``, not increasing; ``curve[channels] == 0``. With normalised scores this makes the
        budget solver a global ranking.
    """
    ordered = np.sort(np.asarray(scores, dtype=np.float64))
    return np.concatenate(([0.0], np.cumsum(ordered)))[::-1]
