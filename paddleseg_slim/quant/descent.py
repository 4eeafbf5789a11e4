"""Choose the integers of a layer's weight by coordinate descent on the squared error of its output.

For one layer the error of AdaRound (Nagel et al. 2020, eq. 21) is a quadratic form of the weight in the second moments
of the layer's inputs; with the float model's inputs ``f`` and the quantized model's ``x`` it is

    E |w f - v x|^2 = v H v' - 2 w C v' + const,   H = E x x',   C = E f x',

so no gradient step is needed: going through the columns of ``v``, each is set to the integer that is best given all
others (CDQuant, Nair and Suggala 2024, section 3; COMQ, Zhang et al. 2024, section 2.2). Products with ``H`` are put
off for blocks of columns as in GPTQ (Frantar et al. 2022). Means are taken out and go into the bias.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from paddleseg_slim.graph import Node
from paddleseg_slim.quant.node import Grid
from paddleseg_slim.quant.placement import channel_axis

SWEEPS = 4
DAMPING = 0.01
"""Share of the mean second moment added to each: what the samples do not tell is left as the float weight has it."""

_COLUMNS = 128
_MOST_VALUES = 1 << 25
"""Most values of the sampled inputs."""

SAMPLES = (4096, 16384)
"""Fewest and most positions of a layer's input that are looked at; between them eight for each input of a product."""


@dataclass(frozen=True)
class Moments:
    """Second moments of a layer's inputs around their means, by group of channels.

    Attributes:
        given: ``H`` of the quantized model's, ``[G, K, K]``.
        cross: ``C``, ``[G, K, K]``.
        exact_mean, given_mean: ``[G, K]``.
    """

    given: np.ndarray
    cross: np.ndarray
    exact_mean: np.ndarray
    given_mean: np.ndarray

    @classmethod
    def of(cls, exact: np.ndarray, given: np.ndarray, centred: bool) -> Moments:
        """Of samples ``[P, G, K]``; the means stay in where no bias could take them (``centred`` False)."""
        means = [x.mean(axis=0) if centred else np.zeros(x.shape[1:], x.dtype) for x in (exact, given)]
        first, second = ((x - mean).transpose(1, 2, 0) for x, mean in zip((exact, given), means))
        turned = np.ascontiguousarray(second.transpose(0, 2, 1))
        return cls(second @ turned / len(given), first @ turned / len(given), means[0], means[1])


def can_descend(node: Node) -> bool:
    """Whether the inputs of the products of this layer can be listed."""
    return node.op in ("conv2d", "depthwise_conv2d", "addmm") or (
        node.op == "matmul" and not node.attrs.get("transpose_x")
    )


def product_samples(node: Node, arrays: list[np.ndarray], kernel: tuple[int, ...], seed: int) -> list[np.ndarray]:
    """Inputs of the products of a layer at the same random positions of each of ``arrays``, ``[P, G, K]``.

    Args:
        node: a layer for which `can_descend` holds.
        arrays: inputs of the layer, ``[N, C, H, W]`` or ``[..., K]``, all of one shape.
        kernel: shape of the weight.
        seed: of the positions.
    """
    rng = np.random.default_rng(seed)
    if "conv" not in node.op:
        rows = [array.reshape(-1, array.shape[-1]) for array in arrays]
        picked = rng.permutation(len(rows[0]))[: _sample_count(rows[0].shape[1], rows[0].shape[1])]
        return [row[picked][:, None, :] for row in rows]
    groups = int(node.attrs.get("groups", 1))
    inputs = kernel[1] * kernel[2] * kernel[3]
    windows = [_windows(node, array, kernel[2:]) for array in arrays]
    images, _, height, width = windows[0].shape[:4]
    total = images * height * width
    count = min(total, _sample_count(inputs, groups * inputs))
    picked = np.sort(rng.choice(total, count, replace=False))
    n, y, x = picked // (height * width), picked // width % height, picked % width
    return [np.ascontiguousarray(w[n, :, y, x]).reshape(count, groups, inputs) for w in windows]


def _sample_count(inputs: int, values: int) -> int:
    return int(max(256, min(np.clip(8 * inputs, *SAMPLES), _MOST_VALUES // values)))


def _windows(node: Node, array: np.ndarray, kernel: tuple[int, ...]) -> np.ndarray:
    """A view ``[N, C, H, W, kh, kw]``: the inputs of every output position."""
    dilations = [int(step) for step in node.attrs.get("dilations", (1, 1))]
    strides = [int(step) for step in node.attrs.get("strides", (1, 1))]
    spans = [(size - 1) * step + 1 for size, step in zip(kernel, dilations)]
    padded = np.pad(array, ((0, 0), (0, 0), *_padding(node, array.shape[2:], spans, strides)))
    view = np.lib.stride_tricks.sliding_window_view(padded, spans, axis=(2, 3))
    return np.asarray(view[:, :, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]])


def _padding(node: Node, sides: Sequence[int], spans: Sequence[int], strides: Sequence[int]) -> list[tuple[int, int]]:
    """Zeros before and behind, for height and width."""
    algorithm = node.attrs.get("padding_algorithm", "EXPLICIT")
    if algorithm == "VALID":
        return [(0, 0), (0, 0)]
    if algorithm == "SAME":
        totals = [max(0, (-(-n // s) - 1) * s + k - n) for n, k, s in zip(sides, spans, strides)]
        return [(total // 2, total - total // 2) for total in totals]
    pads = [int(pad) for pad in node.attrs["paddings"]]
    return [(pads[0], pads[1]), (pads[2], pads[3])] if len(pads) == 4 else [(pads[0], pads[0]), (pads[1], pads[1])]


def as_rows(node: Node, weight: np.ndarray) -> np.ndarray:
    """A weight as ``[G, outputs of a group, K]``."""
    if "conv" in node.op:
        groups = int(node.attrs.get("groups", 1))
        return weight.reshape(groups, weight.shape[0] // groups, -1)
    return (weight if channel_axis(node) == 0 else weight.T)[None]


def from_rows(node: Node, rows: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The inverse of `as_rows`."""
    if "conv" in node.op:
        return rows.reshape(shape)
    return rows[0] if channel_axis(node) == 0 else rows[0].T


def descend(
    weight: np.ndarray, start: np.ndarray, scale: np.ndarray, moments: Moments, grid: Grid, sweeps: int = SWEEPS
) -> np.ndarray:
    """The weight on its grid with a small error of the output.

    Args:
        weight: float, ``[G, O, K]``.
        start: on the grid, for example rounded to nearest.
        scale: ``[G, O, 1]``.
        moments: of the inputs.
        grid: of the integers.
        sweeps: how often to go through all columns.
    """
    damping = DAMPING * np.einsum("gkk->gk", moments.given).mean(axis=1) + 1e-12
    diagonal = np.arange(weight.shape[2])
    matrix = moments.given.copy()
    matrix[:, diagonal, diagonal] += damping[:, None]
    wanted = weight @ moments.cross + damping[:, None, None] * weight
    value, low, high = start.copy(), grid.qmin * scale[..., 0], grid.qmax * scale[..., 0]
    for _ in range(sweeps):
        gradient = value @ matrix - wanted
        before = value.copy()
        for first in range(0, weight.shape[2], _COLUMNS):
            part = slice(first, first + _COLUMNS)
            moved = _columns(value[:, :, part], gradient[:, :, part], matrix[:, part, part], scale[..., 0], low, high)
            gradient += moved @ matrix[:, part, :]
        if np.array_equal(before, value):
            break
    return value


def _columns(
    value: np.ndarray, gradient: np.ndarray, matrix: np.ndarray, scale: np.ndarray, low: np.ndarray, high: np.ndarray
) -> np.ndarray:
    """Set the columns of ``value`` one after the other, in place; returns by how much each changed."""
    before, local = value.copy(), gradient.copy()
    for column in range(value.shape[2]):
        best = value[:, :, column] - local[:, :, column] / matrix[:, column, column][:, None]
        best = np.clip(np.rint(best / scale) * scale, low, high)
        step = best - value[:, :, column]
        local += step[:, :, None] * matrix[:, None, column, :]
        value[:, :, column] = best
    return np.asarray(value - before)


def output_error(
    weight: np.ndarray, chosen: np.ndarray, exact: np.ndarray, given: np.ndarray, moments: Moments
) -> float:
    """Mean squared error of the outputs on samples ``[P, G, K]``, with the bias that suits ``chosen`` best.

    Args:
        weight: float, ``[G, O, K]``.
        chosen: on the grid.
        exact, given: samples of the float and of the quantized model, at the same positions.
        moments: of other samples, for the bias.
    """
    wanted = (exact - moments.exact_mean).transpose(1, 0, 2) @ weight.transpose(0, 2, 1)
    found = (given - moments.given_mean).transpose(1, 0, 2) @ chosen.transpose(0, 2, 1)
    return float(((wanted - found) ** 2).mean())


def bias_shift(weight: np.ndarray, chosen: np.ndarray, moments: Moments) -> np.ndarray:
    """What the bias of each output must gain, ``[G * O]``."""
    exact = np.einsum("gok,gk->go", weight, moments.exact_mean)
    given = np.einsum("gok,gk->go", chosen, moments.given_mean)
    return np.asarray((exact - given).reshape(-1))
