"""Let the layers behind removed channels make up for them: least squares on a few images, no labels, no gradients.

Going through the pruned graph in order, each convolution and linear layer that reads something else than before gets
the weights with which it comes nearest to what it computed in the dense model (He et al., 2017, Channel Pruning for
Accelerating Very Deep Neural Networks, section 3.2; Luo et al., 2017, ThiNet). What it reads is computed by the layers
already refitted, so that it makes up for their errors as well. A batch normalisation behind it moves its statistics as
far as those of its input moved.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from paddleseg_slim.graph import Graph, GraphLayer, Node, data_argument
from paddleseg_slim.prune.by_channel import by_channel_of
from paddleseg_slim.prune.least_squares import Moments, fit
from paddleseg_slim.prune.offsets import bias_of, mean_of
from paddleseg_slim.prune.patches import patches_of
from paddleseg_slim.prune.running import Running, batches_of

_SAME = 1e-6
"""Relative mean square error up to which an output is the dense model's."""

_ROUNDING = 1e-5
"""A constant is one of rounding up to this part of the largest weight."""

_FLOOR = 1e-2
"""Variances below this part of the stored one are noise: a channel that hardly moves on these images."""


@dataclass(frozen=True)
class Refit:
    """What was done to one layer.

    Attributes:
        node: its name.
        before, after: mean square error of its output (refitted by channel: its input) against the dense model's, on
            images left out of the fit, as a part of the variance of that output.
        ridge: the pull chosen; infinity when the weights stay.
    """

    node: str
    before: float
    after: float
    ridge: float


def reconstruct(
    model: GraphLayer,
    dense: GraphLayer,
    images: Sequence[np.ndarray],
    kept: Mapping[str, Mapping[str, Sequence[int]]],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Refit]:
    """Refit the layers of a pruned model, in place.

    Args:
        model: the pruned model.
        dense: the model it was made of.
        images: float32 ``[1, 3, H, W]``, all of one size.
        kept: ``kept`` of the entry that pruning left in the record of ``model``: parameter -> axis -> positions.
        progress: called with layers done and all.

    Returns:
        what was done to each convolution and linear layer, in order.
    """
    batches = batches_of(images)
    sides = Running(model, batches), Running(dense, batches)
    graph, other = sides[0].graph, sides[1].graph
    nodes = [node for node in _changed(graph, kept) if node.op in _REFITS and other.has_node(node.name)]
    done = []
    for number, node in enumerate(nodes):
        progress(number, len(nodes))
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is left as it is
            result = _REFITS[node.op](sides, node, other.node(node.name), kept)
        if result is not None:
            done.append(result)
        for side in sides:
            coming = [side.graph.node(later.name) for later in nodes[number + 1 :]]
            side.forget([v for n in coming for v in (n.value(data_argument(n.op)), n.out)])
    return done


def _changed(graph: Graph, kept: Mapping[str, Any]) -> list[Node]:
    """Nodes that read, or depend on, a parameter that was cut, and whose own parameters nobody else reads."""
    nodes = graph.dependents([value for name, value in graph.parameters.items() if name in kept])
    own = [[v for v in node.input_values() if graph.parameter_name(v) is not None] for node in nodes]
    return [node for node, values in zip(nodes, own) if all(len(graph.users(value)) == 1 for value in values)]


_Sides = tuple[Running, Running]
_Kept = Mapping[str, Mapping[str, Sequence[int]]]


def _positions(kept: _Kept, name: str, axis: int) -> Any:
    """Index of what stays of an axis."""
    return kept.get(name, {}).get(str(axis), slice(None))


def _refit_norm(sides: _Sides, node: Node, twin: Node, kept: _Kept) -> None:
    """Move the statistics of a batch normalisation as those of its input moved."""
    stored = all(sides[0].graph.parameter_name(node.value(a)) is not None for a in ("mean", "variance"))
    if not stored or node.attrs.get("data_format", "NCHW") != "NCHW":
        return
    moments = [_mean_and_variance(side.value(own.value("x"))) for side, own in zip(sides, (node, twin))]
    stay = _positions(kept, node.value("mean").name, 0)
    if not all(np.isfinite(array).all() for pair in moments for array in pair):
        return
    (mean, variance), (mean0, variance0) = moments[0], (moments[1][0][stay], moments[1][1][stay])
    model = sides[0].model
    names = [node.value(a).name for a in ("mean", "variance")]
    old = [model.tensor(name).numpy() for name in names]
    model.set_tensor(names[0], old[0] + (mean - mean0).astype(np.float32))
    floor = _FLOOR * old[1]
    base = variance0 + floor  # 0 for a dead channel whose stored variance decayed to 0: it stays
    ratio = np.divide(variance + floor, base, out=np.ones_like(base), where=base > 0)
    model.set_tensor(names[1], (old[1] * ratio).astype(np.float32))


def _mean_and_variance(tensors: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Of every channel of tensors ``[N, C, ...]``, over images and positions, float64."""
    arrays = [tensor.numpy().reshape(*tensor.shape[:2], -1) for tensor in tensors]
    mean, square = (
        np.concatenate([values.mean(axis=2) for values in kind]).mean(axis=0, dtype=np.float64)
        for kind in (arrays, [np.square(array) for array in arrays])
    )
    return mean, np.maximum(square - mean**2, 0.0)


def _set_bias(sides: _Sides, name: str, constant: np.ndarray, kept: _Kept) -> None:
    """Give the pruned model the bias of the dense one, and a constant ``[outputs]`` more."""
    unpruned = sides[1].model.tensor(name).numpy().reshape(-1)[_positions(kept, name, 0)]
    array = sides[0].model.tensor(name).numpy()
    sides[0].model.set_tensor(name, (constant + unpruned).reshape(array.shape).astype(array.dtype))


def _takes_up(graph: Graph, node: Node, outputs: int) -> tuple[str | None, bool]:
    """The bias of a layer, and whether that or a BatchNorm takes up a constant."""
    bias = bias_of(graph, node, outputs)
    return bias, bias is not None or mean_of(graph, node, outputs) is not None


def _is_nothing(constant: np.ndarray, weights: np.ndarray) -> bool:
    """Whether what a bias would take up is rounding: where nothing varies is lost, constants may be all that is."""
    return bool(np.abs(constant).max(initial=0.0) <= _ROUNDING * np.abs(weights).max(initial=0.0))


def _refit_layer(sides: _Sides, node: Node, twin: Node, kept: _Kept) -> Refit | None:
    """Fit the weights of a convolution or linear layer."""
    patches = patches_of(node, sides[0].graph)
    if patches is None:
        return _refit_by_channel(sides, node, twin, kept)
    inputs, outputs = sides[0].value(node.value(patches.argument)), sides[1].value(twin.out)
    stay = _positions(kept, patches.weight, patches.made_axis)
    model = sides[0].model
    old = patches.matrices(model.tensor(patches.weight).numpy())
    random = np.random.default_rng(0)
    halves = [Moments.none(old.shape), Moments.none(old.shape)]
    many = sum(len(t) for t in inputs)
    for number, (x, y) in enumerate(zip(inputs, outputs)):
        rows, wanted = patches.sample(x.numpy(), y.numpy(), stay, random, many)
        halves[number % 2].add(rows, wanted)
    if not halves[1].count:
        halves[1] = halves[0]  # one image: nothing is left out
    bias, taken_up = _takes_up(sides[0].graph, node, old.shape[0] * old.shape[2])
    new, before, after, ridge = fit(old, halves, 0.0 if taken_up else 1.0)
    inputs_mean, outputs_mean = (halves[0] + halves[1]).means()
    left = (outputs_mean - np.einsum("gd,gdo->go", inputs_mean, new)).reshape(-1)
    if not np.isfinite(before) or (before < _SAME and (bias is None or _is_nothing(left, old))):
        return None
    model.set_tensor(patches.weight, patches.weights(new, model.tensor(patches.weight).numpy().dtype))
    if bias is not None:
        _set_bias(sides, bias, left, kept)
    return Refit(node.name, before, after, ridge)


def _refit_by_channel(sides: _Sides, node: Node, twin: Node, kept: _Kept) -> Refit | None:
    """Give a layer the dense model's weights on guesses of that model's inputs; see `by_channel`."""
    layer = by_channel_of(node, sides[0].graph)
    if layer is None:
        return None
    pairs = list(zip(*(side.value(own.value(layer.argument)) for side, own in zip(sides, (node, twin)))))
    left, all_channels = (tensor.shape[1] for tensor in pairs[0])
    halves, random = [Moments.none((1, left, all_channels)) for _ in range(2)], np.random.default_rng(0)
    for number, pair in enumerate(pairs):
        both = np.concatenate([tensor.numpy() for tensor in pair], axis=1)
        rows = layer.rows(both, random, sum(len(x) for x, _ in pairs))
        halves[number % 2].add(rows[:, :, :left], rows[:, :, left:])
    if not halves[1].count:
        halves[1] = halves[0]
    stay = _positions(kept, layer.weight, layer.made_axis)
    dense = np.moveaxis(sides[1].model.tensor(layer.weight).numpy(), layer.made_axis, 0)[stay]
    matrix = layer.matrices(np.moveaxis(dense, 0, layer.made_axis))
    bias, taken_up = _takes_up(sides[0].graph, node, layer.shape[layer.made_axis])
    read = _positions(kept, layer.weight, 1 - layer.made_axis)
    gone = np.delete(matrix, read, axis=1)  # these are guessed; where none is, what all of them read has changed
    constants = layer.uneven(gone if gone.size else matrix) if taken_up else 1.0
    guess, before, after, ridge = fit(np.eye(all_channels)[read][None], halves, constants)
    inputs_mean, all_mean = (halves[0] + halves[1]).means()
    constant = layer.outputs((all_mean - inputs_mean @ guess[0]) @ matrix[0])
    if not np.isfinite(before) or (before < _SAME and (bias is None or _is_nothing(constant, matrix))):
        return None
    model = sides[0].model
    model.set_tensor(layer.weight, layer.weights(guess @ matrix, dense.dtype))
    if bias is not None:
        _set_bias(sides, bias, constant, kept)
    return Refit(node.name, before, after, ridge)


_REFITS: dict[str, Any] = {
    "conv2d": _refit_layer,
    "conv2d_transpose": _refit_by_channel,
    "matmul": _refit_layer,
    "batch_norm": _refit_norm,
}
