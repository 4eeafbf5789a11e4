"""What reads the channels of a group and mixes them, and the second moments of what it reads.

From these follows, without running anything, how far the output of a layer moves when some channels are gone and the
weights on the others are the best possible ones: `elimination` orders channels by it, `refit_curves` measures with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from paddleseg_slim.graph import Graph, Node
from paddleseg_slim.prune.by_channel import ByChannel, by_channel_of
from paddleseg_slim.prune.channels import ChannelGroups, Group, Member
from paddleseg_slim.prune.least_squares import Moments
from paddleseg_slim.prune.offsets import bias_of, mean_of
from paddleseg_slim.prune.patches import Patches, patches_of
from paddleseg_slim.prune.running import Running, batches_of

RIDGE = 1e-3
"""Pull of the weights towards what they are, relative to the mean square of the inputs."""

_CONSTANT = 1e-4
"""Part of the mean square of outputs below which their variance is noise."""

_NOTHING = 1e-20
"""Pull where nothing at all is read, so that there is a solution; it costs `_CONSTANT` of such a reader's variance."""


@dataclass(frozen=True, eq=False)
class Reader:
    """A convolution or linear layer that reads all channels of a group.

    Attributes:
        layer: how it reads; its node is of the eval graph at the images' size.
        weight: float64 ``[G, fan in, outputs of a group]``, G groups of the convolution.
        rows: int64 ``[width, k]``, the rows of the weight that read each channel, the same in every group.
        inputs: float64 ``[G, fan in]``, mean of what it reads.
        covariance: float64 ``[G, fan in, fan in]`` of what it reads, with the pull on its diagonal; the means are in it
            as far as no offset takes them up.
        variance: of its outputs, summed; of a layer that reads constants, a part of their mean square.
        offset: parameter that takes up a constant added to its outputs, and the sign with which it does; None for none,
            and then ``inputs`` is 0 and ``covariance`` is about 0.
    """

    layer: Patches | ByChannel
    weight: np.ndarray
    rows: np.ndarray
    inputs: np.ndarray
    covariance: np.ndarray
    variance: float
    offset: tuple[str, int] | None

    def offset_moved(self, weight: np.ndarray) -> np.ndarray:
        """By how much `offset` moves for another ``weight``, float64 ``[outputs]``."""
        moved = (self.inputs[:, None] @ (weight - self.weight)).reshape(-1)
        return self.layer.outputs(moved) * (self.offset[1] if self.offset else 0)

    def without(self, removed: np.ndarray) -> np.ndarray:
        """The weight, of its own shape, that makes up for the ``removed`` channels; their rows are 0."""
        gone = self.rows[removed].reshape(-1)
        left = np.setdiff1d(np.arange(self.weight.shape[1]), gone)
        beside = self.covariance[:, left]
        made_up = np.linalg.solve(beside[:, :, left], beside[:, :, gone] @ self.weight[:, gone])
        weight = np.zeros_like(self.weight)
        weight[:, left] = self.weight[:, left] + made_up
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
        group -> its readers in the order of the graph; without layers that share their weight, and those that nothing
        counted depends on.
    """
    model = Running(groups.model, batches_of(images))
    members: dict[str, list[tuple[Group, Member]]] = {}
    for group in groups.groups:
        for member in group.members:
            if not member.writes:
                members.setdefault(member.parameter, []).append((group, member))
    needed = {node.name for node in groups.needed}  # an auxiliary head is not
    nodes = [node for node in model.graph.nodes if node.name in needed]
    layers = [layer for node in nodes if (layer := _layer(node, model.graph)) and layer.weight in members]
    found: dict[str, list[Reader]] = {group.name: [] for group in groups.groups}
    for number, layer in enumerate(layers):
        progress(number, len(layers))
        weight = layer.matrices(groups.model.tensor(layer.weight).numpy()).astype(np.float64)
        fan_in = weight.shape[1]
        read = [(g.name, _rows(m, g.width, fan_in)) for g, m in members[layer.weight] if m.axis != layer.made_axis]
        if any(rows is not None for _, rows in read):
            whole = _reader(model, layer, weight)
            for name, rows in read:
                if rows is not None:
                    found[name].append(replace(whole, rows=rows))
        model.forget([later.node.value(later.argument) for later in layers[number + 1 :]])
    return found


def _layer(node: Node, graph: Graph) -> Patches | ByChannel | None:
    """How a node reads and mixes channels by a weight of its own; None if it does not."""
    if node.op not in ("conv2d", "matmul", "conv2d_transpose"):
        return None
    layer = (patches_of(node, graph) if node.op != "conv2d_transpose" else None) or by_channel_of(node, graph)
    if layer is None or len(graph.users(graph.parameters[layer.weight])) != 1:
        return None
    return layer


def _rows(member: Member, width: int, fan_in: int) -> np.ndarray | None:
    """Rows of a layer's matrix that read each channel ``[width, k]``; None where some are read more often."""
    channels = np.repeat(member.channels, fan_in // len(member.channels))
    counts = np.bincount(channels[channels >= 0], minlength=width)
    if not counts.min() or counts.min() != counts.max():
        return None
    order = np.argsort(channels, kind="stable")[(channels < 0).sum() :]
    return order.reshape(width, -1)


def _reader(model: Running, layer: Patches | ByChannel, weight: np.ndarray) -> Reader:
    """The reader that a layer is, for the rows of no group yet."""
    inputs = model.value(layer.node.value(layer.argument))
    offset = _offset(model.graph, layer.node, layer.shape[layer.made_axis])
    moments, random = Moments.none((*weight.shape[:2], 0)), np.random.default_rng(0)
    shift = None
    for tensor in inputs:
        rows = layer.rows(tensor.numpy(), random, sum(len(t) for t in inputs))
        if shift is None:  # near the mean, so that the difference of squares is of small numbers
            shift = rows.mean(axis=1, keepdims=True)
        moments.add(rows - shift, rows[:, :, :0])  # outputs follow from what is read
    assert shift is not None
    mean = moments.means()[0] + shift[:, 0]
    constants = layer.uneven(weight) if offset is not None else 1.0
    xx = moments.products(0.0)[0] + constants * mean[:, :, None] * mean[:, None, :]
    variance = float((weight * (xx @ weight)).sum())
    energy = variance + float(np.square(mean[:, None] @ weight).sum()) * (offset is not None)
    variance = max(variance, _CONSTANT * energy, _NOTHING / _CONSTANT * float(np.square(weight).sum()), 1e-30)
    pull = RIDGE * np.trace(xx, axis1=1, axis2=2) / xx.shape[1] + _NOTHING
    covariance = xx + pull[:, None, None] * np.eye(xx.shape[1])
    mean = mean * (offset is not None)
    nobody = np.zeros((0, 1), dtype=np.int64)
    return Reader(layer, weight, nobody, mean, covariance, variance, offset)


def _offset(graph: Graph, node: Node, outputs: int) -> tuple[str, int] | None:
    mean, bias = mean_of(graph, node, outputs), bias_of(graph, node, outputs)
    return (mean, 1) if mean is not None else (bias, -1) if bias is not None else None
