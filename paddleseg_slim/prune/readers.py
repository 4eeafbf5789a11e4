"""What reads the channels of a group and mixes them, and the second moments of what it reads.

From these follows, without running anything, how far the output of a layer moves when some channels are gone and the
weights on the others are the best possible ones: `elimination` orders channels by it, `refit_curves` measures with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from paddleseg_slim.graph import Graph, Node
from paddleseg_slim.prune.channels import ChannelGroups, Member
from paddleseg_slim.prune.least_squares import Moments
from paddleseg_slim.prune.offsets import bias_of, mean_of
from paddleseg_slim.prune.patches import Patches, patches_of
from paddleseg_slim.prune.running import Running, batches_of

RIDGE = 1e-3
"""Pull of the weights towards what they are, relative to the mean square of the inputs."""


@dataclass(frozen=True, eq=False)
class Reader:
    """A convolution or linear layer that reads all channels of a group.

    Attributes:
        node: the layer, of the eval graph at the images' size.
        patches: how it reads.
        weight: float64 ``[fan in, outputs]``.
        rows: int64 ``[width, k]``, the rows of the weight that read each channel.
        inputs: float64 ``[fan in]``, mean of what it reads.
        covariance: float64 ``[fan in, fan in]`` of what it reads, with the pull on its diagonal.
        variance: of its outputs, summed.
        offset: parameter that takes up a constant added to its outputs, and the sign with which it does; None for none,
            and then ``inputs`` is 0 and ``covariance`` is about 0.
    """

    node: Node
    patches: Patches
    weight: np.ndarray
    rows: np.ndarray
    inputs: np.ndarray
    covariance: np.ndarray
    variance: float
    offset: tuple[str, int] | None

    def offset_moved(self, weight: np.ndarray) -> np.ndarray:
        """By how much `offset` moves for another ``weight``, float64 ``[outputs]``."""
        return np.asarray((self.inputs @ (weight - self.weight)) * (self.offset[1] if self.offset else 0))

    def without(self, removed: np.ndarray) -> np.ndarray:
        """The weight ``[fan in, outputs]`` that makes up for the ``removed`` channels; their rows are 0."""
        gone = self.rows[removed].reshape(-1)
        left = np.setdiff1d(np.arange(len(self.weight)), gone)
        wanted = self.covariance[np.ix_(left, gone)] @ self.weight[gone]
        weight = np.zeros_like(self.weight)
        weight[left] = self.weight[left] + np.linalg.solve(self.covariance[np.ix_(left, left)], wanted)
        return weight


def readers_of(
    groups: ChannelGroups, images: Sequence[np.ndarray], progress: Callable[[int, int], None] = lambda done, total: None
) -> dict[str, list[Reader]]:
    """The readers of every group.

    Args:
        groups: of the model.
        images: float32 ``[1, 3, H, W]``, all of one size.
        progress: called with layers done and all.

    Returns:
        group -> its readers in the order of the graph; without those that `patches.patches_of` refuses and
        convolutions in groups, which mix no channels across them, and those that share their weight.
    """
    model = Running(groups.model, batches_of(images))
    axes: dict[str, list[tuple[str, Member]]] = {}
    for group in groups.groups:
        for member in group.members:
            if not member.writes:
                axes.setdefault(member.parameter, []).append((group.name, member))
    layers = [(node, patches_of(node, model.graph)) for node in model.graph.nodes if node.op in ("conv2d", "matmul")]
    own = [
        (node, p)
        for node, p in layers
        if p is not None and len(model.graph.users(model.graph.parameters[p.weight])) == 1
    ]
    mixing = [(node, p) for node, p in own if p.groups == 1 and p.weight in axes]
    found: dict[str, list[Reader]] = {group.name: [] for group in groups.groups}
    for number, (node, patches) in enumerate(mixing):
        progress(number, len(mixing))
        owners = [(n, m, rows) for n, m in axes[patches.weight] if (rows := _rows(m, patches)) is not None]
        if owners:
            weight, moments = _moments(model, node, patches)
            offset = _offset(model.graph, node, weight.shape[1])
            xx, _, yy = moments.products(centred=offset is not None)
            pull = RIDGE * np.trace(xx[0]) / len(xx[0]) + 1e-12
            inputs = moments.means()[0][0] * (offset is not None)
            about = (inputs, xx[0] + pull * np.eye(len(xx[0])), float(yy.sum()), offset)
            for name, _, rows in owners:
                found[name].append(Reader(node, patches, weight, rows, *about))
        model.forget([v for later, p in mixing[number + 1 :] for v in (later.value(p.argument), later.out)])
    return found


def _rows(member: Member, patches: Patches) -> np.ndarray | None:
    """Rows of the layer's matrix that read each channel; None where the axis is not its input's."""
    if member.axis != 1 - patches.made_axis:
        return None
    each = int(np.prod(patches.shape)) // patches.shape[patches.made_axis] // len(member.channels)
    width = int(member.channels.max()) + 1
    channels = np.repeat(member.channels, each)
    counts = np.bincount(channels[channels >= 0], minlength=width)
    if not counts.min() or counts.min() != counts.max():
        return None
    order = np.argsort(channels, kind="stable")[(channels < 0).sum() :]
    return order.reshape(width, -1)


def _offset(graph: Graph, node: Node, outputs: int) -> tuple[str, int] | None:
    mean, bias = mean_of(graph, node), bias_of(graph, node, outputs)
    return (mean, 1) if mean is not None else (bias, -1) if bias is not None else None


def _moments(model: Running, node: Node, patches: Patches) -> tuple[np.ndarray, Moments]:
    inputs, outputs = model.value(node.value(patches.argument)), model.value(node.out)
    weight = patches.matrices(model.model.tensor(patches.weight).numpy()).astype(np.float64)
    moments, random = Moments.none(weight.shape), np.random.default_rng(0)
    many = sum(len(tensor) for tensor in inputs)
    for x, y in zip(inputs, outputs):
        moments.add(*patches.sample(x.numpy(), y.numpy(), slice(None), random, many))
    return weight[0], moments
