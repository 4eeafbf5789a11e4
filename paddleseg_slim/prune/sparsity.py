"""Zeros in weights, without changing a shape: unstructured by magnitude, gradually, and 2 of 4."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from paddleseg_slim.errors import UserError
from paddleseg_slim.graph import Graph, GraphLayer
from paddleseg_slim.prune.patterns import compiled, no_match

WHO_GAINS = {
    "unstructured": "Zeros make none of the engines measured here faster: ONNX Runtime, OpenVINO and Paddle Inference "
    "multiply by them, and the file is smaller only once it is compressed. Sparse kernels exist for ARM (XNNPACK, "
    "Paddle Lite): they gain from 1x1 convolutions that are 70 % zero or more.",
    "2:4": "2:4 sparsity is used by TensorRT on NVIDIA Ampere GPUs and newer; CPUs and other engines run it at the "
    "speed of the dense model.",
}
"""An honest line for each kind."""


def sparse_weights(model: GraphLayer, only_1x1: bool = False, keep: Sequence[str] = ()) -> list[str]:
    """Names of the weights that get zeros: filters of dense and grouped convolutions and matrices of linear layers.

    Depthwise filters are left out: they are few and sensitive.

    Args:
        model: any.
        only_1x1: 1x1 convolutions only, the only ones with sparse kernels on ARM.
        keep: regular expressions; layers and weights that match stay dense.

    Raises:
        UserError: an expression is malformed or matches no layer.
    """
    kept = {name for pattern in keep for name in _matches(pattern, model.eval_graph)}
    names: dict[str, None] = {}
    for node in model.eval_graph.nodes:
        argument = {"conv2d": "filter", "matmul": "y"}.get(node.op)
        value = node.inputs.get(argument) if argument else None
        name = model.eval_graph.parameter_name(value) if value is not None and not isinstance(value, list) else None
        if name is None or name in kept or value is None or isinstance(value, list):
            continue
        if only_1x1 and (node.op != "conv2d" or value.shape[2:] != (1, 1)):
            continue
        names[name] = None
    return list(names)


def _matches(pattern: str, graph: Graph) -> set[str]:
    """Parameters that match, or that a layer reads that does."""
    expression, found = compiled(pattern), set()
    known: set[str] = set()
    for node in graph.nodes:
        names = {name for value in node.input_values() if (name := graph.parameter_name(value)) is not None}
        known |= names
        layer = expression.search(node.name)
        found |= {name for name in names if layer or expression.search(name)}
    if not found:
        raise no_match(pattern, known)
    return found


def magnitude_masks(
    weights: Mapping[str, np.ndarray], sparsity: float, per_layer: bool = False
) -> dict[str, np.ndarray]:
    """Masks (bool) that drop the smallest weights.

    Args:
        weights: by name.
        sparsity: part of the weights that become zero, in [0, 1).
        per_layer: the same part in every layer, instead of one threshold for all.
    """
    if not 0 <= sparsity < 1:
        raise UserError(f"The sparsity is {sparsity}.", "Give the part of the weights that become zero: 0 <= s < 1.")
    if per_layer:
        return {name: _largest(np.abs(w), sparsity) for name, w in weights.items()}
    flat = np.concatenate([np.abs(w).ravel() for w in weights.values()])
    mask, result, start = _largest(flat, sparsity), {}, 0
    for name, w in weights.items():
        result[name] = mask[start : start + w.size].reshape(w.shape)
        start += w.size
    return result


def _largest(magnitudes: np.ndarray, sparsity: float) -> np.ndarray:
    drop = round(sparsity * magnitudes.size)
    mask = np.ones(magnitudes.size, dtype=bool)
    mask[np.argpartition(magnitudes.ravel(), drop - 1)[:drop] if drop else []] = False
    return mask.reshape(magnitudes.shape)


def two_of_four_masks(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Masks that keep the two largest of every four weights in a row along the input channels.

    Convolution filters ``[out, in, h, w]`` run along axis 1, matrices ``[in, out]`` along axis 0, as sparse tensor
    cores contract them (Mishra et al., 2021, Accelerating Sparse Deep Neural Networks). A weight whose input channels
    are no multiple of 4 stays dense.
    """
    result = {}
    for name, w in weights.items():
        axis = 1 if w.ndim == 4 else 0
        if w.shape[axis] % 4:
            continue
        rows = np.moveaxis(np.abs(w), axis, -1)
        fours = rows.reshape(*rows.shape[:-1], -1, 4)
        rank = np.argsort(np.argsort(-fours, axis=-1, kind="stable"), axis=-1, kind="stable")
        result[name] = np.moveaxis((rank < 2).reshape(rows.shape), -1, axis)
    return result


@dataclass(frozen=True)
class GradualSchedule:
    """Cubic schedule of the sparsity (Zhu & Gupta, 2017, To prune, or not to prune, eq. 1).

    Attributes:
        final: sparsity at the end.
        initial: sparsity at the first step.
        steps: training steps over which it rises; then it stays.
        updates: how often the masks are chosen anew meanwhile.
    """

    final: float
    initial: float
    steps: int
    updates: int = 50

    def at(self, step: int) -> float:
        """Sparsity after ``step`` training steps."""
        done = min(max(step / max(self.steps, 1), 0.0), 1.0)
        return self.final + (self.initial - self.final) * (1 - done) ** 3

    def due(self, step: int) -> bool:
        """Whether the masks are chosen anew after ``step``."""
        every = max(self.steps // self.updates, 1)
        return step <= self.steps and (step % every == 0 or step == self.steps)


def achieved(weights: Mapping[str, np.ndarray]) -> float:
    """Part of the weights that are zero."""
    total = sum(w.size for w in weights.values())
    return 1 - sum(int(np.count_nonzero(w)) for w in weights.values()) / max(total, 1)
