"""Layers that are refitted channel by channel: what is missing at a position is guessed from what is left there.

A layer that is too wide for `patches`, or a transposed convolution, is given not the weights nearest to its output but
those of the dense model on guesses of its inputs: with ``B`` the best linear map from the channels left to those of the
dense model, ``W_new = B' W``. It needs the moments of the channels alone, whatever the kernel.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from paddleseg_slim.graph import Graph, Node, data_argument
from paddleseg_slim.prune.patches import EACH, SAMPLES, Reading, some

_INPUT_AXIS = {"conv2d": 1, "conv2d_transpose": 0}


class ByChannel(Reading):
    """How such a layer reads; the methods are those of `patches.Patches`."""

    groups = 1

    def matrices(self, weight: np.ndarray) -> np.ndarray:
        """The weight as ``[1, channels read, everything else]``."""
        return np.moveaxis(weight, 1 - self.made_axis, 0).reshape(1, weight.shape[1 - self.made_axis], -1)

    def weights(self, matrices: np.ndarray, dtype: Any) -> np.ndarray:
        """The inverse of `matrices`, for any number of channels read."""
        rest = [side for axis, side in enumerate(self.shape) if axis != 1 - self.made_axis]
        array = matrices[0].reshape(len(matrices[0]), *rest)
        return np.moveaxis(array, 0, 1 - self.made_axis).astype(dtype)

    def outputs(self, numbers: np.ndarray) -> np.ndarray:
        """What a number for each column of `matrices` adds up to at an output, on average ``[outputs]``.

        A transposed convolution with stride s uses one in s of the kernel's places along an axis.
        """
        return np.asarray(numbers.reshape(self.shape[self.made_axis], -1).sum(axis=1)) / float(np.prod(self._strides))

    @property
    def _strides(self) -> tuple[int, int]:
        """Of a transposed convolution; the others have one kind of output."""
        high, wide = self.node.attrs["strides"] if self.node.op == "conv2d_transpose" else (1, 1)
        return int(high), int(wide)

    def uneven(self, matrices: np.ndarray) -> float:
        """What a constant at the input counts, beside the variance, that one number for each output cannot take up.

        With stride s the outputs are of s * s kinds, each made by other places of the kernel. A constant moves each by
        the sum of its places, a number takes up the mean over the kinds; relative to the energy of ``matrices``.
        """
        high, wide = self._strides
        energy = float(np.square(matrices).sum())
        if high * wide == 1 or not energy:
            return 0.0
        places = matrices.reshape(-1, *self.shape[2:])
        dilations = self.node.attrs.get("dilations") or (1, 1)
        row, column = (np.arange(size) * int(d) % s for size, d, s in zip(self.shape[2:], dilations, (high, wide)))
        moved = [places[:, row == i][:, :, column == j].sum(axis=(1, 2)) for i in range(high) for j in range(wide)]
        return float(np.square(moved - np.mean(moved, axis=0)).sum()) / energy

    def rows(self, x: np.ndarray, random: np.random.Generator, images: int) -> np.ndarray:
        """Channels ``[1, P, channels]`` at some positions of a batch ``[N, C, H, W]``."""
        count = int(np.ceil(max(SAMPLES, EACH * x.shape[1]) * len(x) / images))
        image, row, column = np.unravel_index(some(x.size // x.shape[1], count, random), (len(x), *x.shape[2:]))
        return x[image, :, row, column][None]


def by_channel_of(node: Node, graph: Graph) -> ByChannel | None:
    """How ``node`` reads; None when it is no convolution in one group with a weight of its own, channels first."""
    if node.op not in _INPUT_AXIS or int(node.attrs.get("groups") or 1) != 1:
        return None
    name = graph.parameter_name(node.value("filter"))
    if name is None or node.attrs.get("data_format", "NCHW") != "NCHW":
        return None
    return ByChannel(node, data_argument(node.op), name, 1 - _INPUT_AXIS[node.op], tuple(node.value("filter").shape))
