"""What a convolution or linear layer sums over, as rows of a matrix, at some of its positions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from paddleseg_slim.graph import Graph, Node, data_argument

SAMPLES = 4096
"""Positions looked at of a layer, or more where it has more inputs."""

EACH = 8
"""Positions looked at for each input of an output channel."""

MOST_INPUTS = 2400
"""Inputs of an output channel up to which patches are looked at; equations of more take minutes, not seconds."""

MOST_FEATURES = 4096
"""The same of a linear layer, of which a model has few so wide."""


@dataclass(frozen=True)
class Reading:
    """What a layer with a weight reads, and by which weight.

    Attributes:
        node: the layer.
        argument: its input.
        weight: name of its weight.
        made_axis: axis of the weight that counts the outputs; of two axes, or the first two, its input's is the other.
        shape: of the weight.
    """

    node: Node
    argument: str
    weight: str
    made_axis: int
    shape: tuple[int, ...]

    def uneven(self, matrices: np.ndarray) -> float:
        """What a constant at the input counts that one number for each output cannot take up; 0 where it can."""
        return 0.0


class Patches(Reading):
    """How a layer reads position by position."""

    @property
    def groups(self) -> int:
        """Groups of a convolution."""
        return int(self.node.attrs.get("groups") or 1) if self.is_conv else 1

    @property
    def is_conv(self) -> bool:
        """Whether it is a convolution."""
        return self.node.op == "conv2d"

    def matrices(self, weight: np.ndarray) -> np.ndarray:
        """The weight as ``[groups, fan in, outputs of a group]``."""
        if self.is_conv:
            return weight.reshape(self.groups, len(weight) // self.groups, -1).transpose(0, 2, 1)
        return weight[None] if self.made_axis == 1 else weight.T[None]

    def weights(self, matrices: np.ndarray, dtype: Any) -> np.ndarray:
        """The inverse of `matrices`."""
        if self.is_conv:
            return matrices.transpose(0, 2, 1).reshape(self.shape).astype(dtype)
        return (matrices[0] if self.made_axis == 1 else matrices[0].T).astype(dtype)

    def outputs(self, numbers: np.ndarray) -> np.ndarray:
        """A number for each output of those for each column of `matrices`, in one group."""
        return numbers

    def rows(self, x: np.ndarray, random: np.random.Generator, images: int) -> np.ndarray:
        """What is read at some positions of a batch, ``[groups, P, fan in]``; see `sample`."""
        return self._rows(x, self._places(x, random, images))

    def sample(
        self, x: np.ndarray, y: np.ndarray, stay: Any, random: np.random.Generator, images: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Inputs ``[groups, P, fan in]`` and outputs ``[groups, P, outputs]`` at some positions of a batch.

        Args:
            x: input of the layer.
            y: its output in the dense model.
            stay: index of the outputs that it still makes.
            random: chooses the positions.
            images: in all batches together.
        """
        at = self._places(x, random, images)
        if not self.is_conv:
            return self._rows(x, at), y.reshape(-1, y.shape[-1])[at][:, stay][None]
        wanted = y.transpose(0, 2, 3, 1)[at][:, stay].reshape(len(at[0]), self.groups, -1)
        return self._rows(x, at), wanted.transpose(1, 0, 2)

    def _places(self, x: np.ndarray, random: np.random.Generator, images: int) -> Any:
        """Indices of some output positions."""
        fan_in = int(np.prod(self.shape)) // self.shape[self.made_axis]
        count = int(np.ceil(max(SAMPLES, EACH * fan_in) * len(x) / images))
        if not self.is_conv:
            return some(x.size // x.shape[-1], count, random)
        windows = _windows(x, self.node, self.shape[2:])
        places = len(x), *windows.shape[2:4]
        return np.unravel_index(some(int(np.prod(places)), count, random), places)

    def _rows(self, x: np.ndarray, at: Any) -> np.ndarray:
        if not self.is_conv:
            return x.reshape(-1, x.shape[-1])[at][None]
        windows = _windows(x, self.node, self.shape[2:]).transpose(0, 2, 3, 1, 4, 5)
        return windows[at].reshape(len(at[0]), self.groups, -1).transpose(1, 0, 2)


def some(total: int, count: int, random: np.random.Generator) -> np.ndarray:
    """``count`` numbers below ``total``, or all of them if there are no more."""
    return np.arange(total) if total <= count else random.choice(total, count, replace=False)


def patches_of(node: Node, graph: Graph) -> Patches | None:
    """How ``node`` reads; None when it is no layer with a weight of its own, has another layout, or is too large."""
    if node.op == "conv2d":
        weight, made_axis, most = node.value("filter"), 0, MOST_INPUTS
        known = node.attrs.get("data_format", "NCHW") == "NCHW"
    else:
        weight, made_axis, most = node.value("y"), 0 if node.attrs.get("transpose_y") else 1, MOST_FEATURES
        known = len(weight.shape) == 2 and not node.attrs.get("transpose_x")
    name = graph.parameter_name(weight)
    if name is None or not known or np.prod(weight.shape) // weight.shape[made_axis] > most:
        return None
    return Patches(node, data_argument(node.op), name, made_axis, tuple(weight.shape))


def _windows(x: np.ndarray, node: Node, kernel: tuple[int, ...]) -> np.ndarray:
    """What the kernel covers at each output position, a view ``[N, C, H, W, kh, kw]``."""
    same = node.attrs.get("padding_algorithm") == "SAME"
    strides = [int(s) for s in node.attrs["strides"]]
    dilations = [1, 1] if same else [int(d) for d in node.attrs.get("dilations") or (1, 1)]
    pads = [_padding(node, i, x.shape[2 + i], kernel[i]) for i in range(2)]
    x = np.pad(x, ((0, 0), (0, 0), *pads))
    reach = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilations))
    view = np.lib.stride_tricks.sliding_window_view(x, reach, axis=(2, 3))
    return view[:, :, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]


def _padding(node: Node, axis: int, size: int, kernel: int) -> tuple[int, int]:
    """Zeros before and behind one axis of positions."""
    how = node.attrs.get("padding_algorithm", "EXPLICIT")
    if how == "SAME":
        stride = int(node.attrs["strides"][axis])
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        return total // 2, total - total // 2
    if how == "VALID":
        return 0, 0
    paddings = [int(p) for p in node.attrs["paddings"]]
    return (paddings[axis], paddings[axis]) if len(paddings) == 2 else (paddings[2 * axis], paddings[2 * axis + 1])
