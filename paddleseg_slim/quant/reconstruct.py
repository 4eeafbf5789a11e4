"""Choose for each weight whether it is rounded up or down by what its layer puts out (AdaRound, Nagel et al. 2020).

Layer by layer, in the order of the graph, a continuous variable for each weight (eq. 23) is trained so that the layer
on the *quantized* model's inputs gives what the float layer gives on the float model's (asymmetric reconstruction,
eq. 25), while a regularizer (eq. 24) drives the variables to 0 or 1. As in QDrop (Wei et al. 2022) a random half of
the input elements is taken from the float model, which makes the result flatter around the calibration images.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import paddle

from paddleseg_slim.errors import UserError
from paddleseg_slim.graph import Executor, Graph, GraphLayer, Node, PaddleExecutor, Value, extract
from paddleseg_slim.graph.run import Plan
from paddleseg_slim.quant.insert import quantizer_of
from paddleseg_slim.quant.node import Grid, along
from paddleseg_slim.quant.placement import WEIGHT_ARGUMENT, activation_of, weight_of

_ZETA, _GAMMA = 1.1, -0.1
"""Stretch of the sigmoid (eq. 23)."""

STEPS = 300
"""Most training steps of a layer."""

IMAGES = 16
"""Images that a layer is trained on, chosen anew for each."""

_WARMUP = 0.2
_REGULARIZATION = 0.01
_BATCH = 8
_ELEMENTS = 1 << 22
"""Most elements of one step's input: larger images are taken in smaller batches."""


@dataclass
class Report:
    """What a reconstruction did.

    Attributes:
        errors: layer -> mean squared error of its output, rounded to nearest and as chosen.
        left_out: layers that the time did not suffice for.
    """

    errors: dict[str, tuple[float, float]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def line(self) -> str:
        """A sentence."""
        ratios = [after / before for before, after in self.errors.values() if before > 0]
        middle = f"{np.median(ratios):.2f} of that of rounding to nearest" if ratios else "not measured"
        rest = f"; no time for {len(self.left_out)}" if self.left_out else ""
        return f"{len(self.errors)} layers, median output error {middle}{rest}"


def reconstruct(
    layer: GraphLayer,
    model: GraphLayer,
    batches: Sequence[np.ndarray],
    seconds: float,
    *,
    executor: Executor | None = None,
    steps: int = STEPS,
    seed: int = 0,
) -> Report:
    """Choose the rounding of every quantized weight of ``layer``, in place.

    Args:
        layer: the quantized model; its weights become exact multiples of their scales.
        model: the float model that it was made of, with the same node names.
        batches: calibration images, float32 ``[N, C, H, W]``.
        seconds: time budget for all layers; layers beyond it keep rounding to nearest.
        executor: for the passes that collect inputs; Paddle's when None.
        steps: most steps of a layer.
        seed: of the choice of images and elements.

    Raises:
        UserError: the budget is not above 0, or there are no images.
    """
    if seconds <= 0 or not batches:
        raise UserError(f"Reconstruction with {seconds} s and {len(batches)} batches.", "Give time and images.")
    executor = executor or PaddleExecutor()
    rng = np.random.default_rng(seed)
    images = np.concatenate([b for b in batches if b.shape[1:] == batches[0].shape[1:]])
    nodes = [node for node in layer.eval_graph.nodes if _is_quantized(node)]
    report, end = Report(), time.monotonic() + seconds
    for index, node in enumerate(nodes):
        left = end - time.monotonic()
        if left <= 0:
            report.left_out.append(node.name)
            continue
        stop = time.monotonic() + left / (len(nodes) - index)
        source = model.eval_graph.node(node.name)
        chosen = images[rng.permutation(len(images))[: max(1, min(len(images), IMAGES))]]
        target_in, target = _values(model, [activation_of(source), source.out], chosen, executor)
        (given,) = _values(layer, [activation_of(node)], chosen, executor)
        before, after = _reconstruct_layer(layer, node, given, target_in, target, stop, steps, rng)
        report.errors[node.name] = before, after
    return report


def _is_quantized(node: Node) -> bool:
    return node.op in WEIGHT_ARGUMENT and quantizer_of(node.value(WEIGHT_ARGUMENT[node.op])) is not None


def _values(model: GraphLayer, wanted: Sequence[Value], images: np.ndarray, executor: Executor) -> list[np.ndarray]:
    graph = model.eval_graph
    name = graph.inputs[0].name
    computed = [value for value in wanted if value.name != name]
    found: dict[str, list[np.ndarray]] = {value.name: [] for value in computed}
    if computed:
        part = extract(graph, graph.inputs, computed)
        runner = executor.prepare(part, {key: model.tensor(key).numpy() for key in part.parameters})
        for start in range(0, len(images), _BATCH):
            for key, array in runner({name: images[start : start + _BATCH]}).items():
                found[key].append(array)
    return [images if value.name == name else np.concatenate(found[value.name]) for value in wanted]


class _Layer:
    """One layer as a function of its input and its weight.

    The node is cut out of the graph with its attributes; the weight is fed, so that a gradient reaches it.
    """

    def __init__(self, graph: Graph, node: Node) -> None:
        weight = node.value(WEIGHT_ARGUMENT[node.op])
        x = activation_of(node)
        part = extract(graph, [x, weight], [node.out])
        self._plan = Plan(part)
        self._order = [value.name for value in part.inputs]
        self._names = {x.name: "x", weight.name: "weight"}

    def __call__(self, x: Any, weight: Any) -> Any:
        given = {"x": x, "weight": weight}
        return self._plan.run([given[self._names[name]] for name in self._order], [])[0]


def _reconstruct_layer(
    layer: GraphLayer,
    node: Node,
    given: np.ndarray,
    float_given: np.ndarray,
    target: np.ndarray,
    stop: float,
    steps: int,
    rng: np.random.Generator,
) -> tuple[float, float]:
    """Train the rounding of one layer; returns the errors of rounding to nearest and of the choice, and keeps it if
    it is better."""
    quantizer = quantizer_of(node.value(WEIGHT_ARGUMENT[node.op]))
    assert quantizer is not None
    grid, name = Grid.of(quantizer), weight_of(node).name
    array = layer.tensor(name).numpy()
    step = along(layer.tensor(quantizer.value("scale").name).numpy(), grid.axis, array.ndim)
    floor = np.floor(array / step)
    part = np.clip(array / step - floor, 0.01, 0.99)
    function = _Layer(layer.eval_graph, node)
    start = -np.log((_ZETA - _GAMMA) / (part - _GAMMA) - 1)
    variable = paddle.to_tensor(start.astype(np.float32), stop_gradient=False)
    scale, low = paddle.to_tensor(step.astype(np.float32)), paddle.to_tensor(floor.astype(np.float32))
    adam = paddle.optimizer.Adam(0.02, parameters=[variable])
    size = max(1, min(_BATCH, _ELEMENTS // max(1, given[0].size)))
    power = max(float((target**2).mean()), 1e-12)
    began = time.monotonic()
    for iteration in range(steps):
        progress = max(iteration / steps, (time.monotonic() - began) / max(stop - began, 1e-6))
        if progress >= 1:
            break
        picked = rng.permutation(len(given))[:size]
        mixed = np.where(rng.random(given[picked].shape) < 0.5, given[picked], float_given[picked])
        soft = paddle.clip(paddle.nn.functional.sigmoid(variable) * (_ZETA - _GAMMA) + _GAMMA, 0, 1)
        weight = paddle.clip(low + soft, grid.qmin, grid.qmax) * scale
        output = function(paddle.to_tensor(mixed.astype(np.float32)), weight)
        loss = ((output - paddle.to_tensor(target[picked])) ** 2).mean() / power
        if progress > _WARMUP:
            beta = 2 + 18 * (1 - (progress - _WARMUP) / (1 - _WARMUP))
            loss = loss + _REGULARIZATION * (1 - paddle.abs(2 * soft - 1) ** beta).mean()
        loss.backward()
        adam.step()
        adam.clear_grad()
    up = (1 / (1 + np.exp(-variable.numpy())) * (_ZETA - _GAMMA) + _GAMMA) >= 0.5
    chosen = np.clip(floor + up, grid.qmin, grid.qmax) * step
    nearest = np.clip(np.rint(array / step), grid.qmin, grid.qmax) * step
    errors = [_error(function, given, target, weight.astype(np.float32), size) for weight in (nearest, chosen)]
    best = chosen if errors[1] < errors[0] else nearest
    layer.set_tensor(name, best.astype(array.dtype))
    return errors[0], min(errors)


def _error(function: _Layer, given: np.ndarray, target: np.ndarray, weight: np.ndarray, size: int) -> float:
    total = 0.0
    with paddle.no_grad():
        for start in range(0, len(given), size):
            output = function(paddle.to_tensor(given[start : start + size]), paddle.to_tensor(weight)).numpy()
            total += float(((output - target[start : start + size]) ** 2).sum())
    return total / target.size
