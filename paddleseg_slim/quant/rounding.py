"""The rounding of a block's weights as variables that are trained: AdaRound (Nagel et al. 2020) on a block (BRECQ)."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle

from paddleseg_slim.graph import GraphLayer, Node, extract
from paddleseg_slim.graph.run import Plan
from paddleseg_slim.quant.blocks import Block
from paddleseg_slim.quant.insert import quantizer_of
from paddleseg_slim.quant.node import Grid, along
from paddleseg_slim.quant.placement import WEIGHT_ARGUMENT, weight_of

_ZETA, _GAMMA = 1.1, -0.1
"""Stretch of the sigmoid (eq. 23)."""

TRAVEL = 12.0
"""How far a variable can go in a whole training: the learning rate is this over the number of steps, as a variable
that is rounded the other way must go about 5."""

MOST_RATE = 0.1
_WARMUP = 0.2
_REGULARIZATION = 1.0
"""Weight of the regularizer against the error that the block begins with, which has the size of the bits' choice."""

_HELD_OUT = 8
"""One image of so many is not trained on: by these it is decided whether the choice is better than the present one."""

Arrays = dict[str, np.ndarray]


def weight_quantizer(node: Node) -> Node | None:
    """The quantizer of the weight of a layer; None where it has none, or the node is no layer."""
    return quantizer_of(node.value(WEIGHT_ARGUMENT[node.op])) if node.op in WEIGHT_ARGUMENT else None


@dataclass
class RoundedWeight:
    """A weight whose rounding is chosen.

    Attributes:
        name: of the stored tensor.
        value: of its quantizer's output.
        grid: of its integers.
        scale: shaped to broadcast.
        exact: float, of the float model.
        present: of the quantized model, on its grid.
    """

    name: str
    value: str
    grid: Grid
    scale: np.ndarray
    exact: np.ndarray
    present: np.ndarray

    @classmethod
    def of(cls, layer: GraphLayer, model: GraphLayer, name: str) -> RoundedWeight | None:
        """The weight of the layer called ``name``; None where it has no quantizer."""
        node = layer.eval_graph.node(name)
        quantizer = weight_quantizer(node)
        if quantizer is None:
            return None
        stored, grid = weight_of(node).name, Grid.of(quantizer)
        exact, present = model.tensor(stored).numpy(), layer.tensor(stored).numpy()
        scale = along(layer.tensor(quantizer.value("scale").name).numpy(), grid.axis, exact.ndim)
        levels = np.clip(np.rint(present / scale), grid.qmin, grid.qmax)
        return cls(stored, quantizer.out.name, grid, scale, exact, (levels * scale).astype(exact.dtype))

    def floor(self) -> np.ndarray:
        """The integers below the float weight."""
        return np.asarray(np.floor(self.exact / self.scale))


class BlockFunction:
    """A block of the quantized model as a function of its inputs, the weights to choose and the biases."""

    def __init__(self, layer: GraphLayer, model: GraphLayer, block: Block, done: Collection[str]) -> None:
        graph = layer.eval_graph
        self.layer, self.outputs = layer, block.outputs
        self.weights = _weights(layer, model, block, done)
        made = [graph.value(weight.value) for weight in self.weights]
        part = extract(graph, [*(graph.value(name) for name in block.inputs), *made], map(graph.value, block.outputs))
        self._order = [value.name for value in part.inputs]
        self._plan = Plan(part)
        chosen = {weight.value for weight in self.weights}
        self.reads = [name for name in self._order if name not in chosen]
        self.tensors = {name: layer.tensor(name).detach() for name in part.parameters}

    def __call__(self, arrays: Mapping[str, Any], weights: Sequence[Any]) -> list[Any]:
        """The block's outputs for its inputs by name and these weights, tensors."""
        given = {**arrays, **{weight.value: tensor for weight, tensor in zip(self.weights, weights)}}
        parameters: list[tuple[int, dict[str, Any], str]] = [
            (slot, self.tensors, name) for slot, name in self._plan.parameters
        ]
        return self._plan.run([given[name] for name in self._order], parameters)


def _weights(layer: GraphLayer, model: GraphLayer, block: Block, done: Collection[str]) -> list[RoundedWeight]:
    found: dict[str, RoundedWeight] = {}
    for name in block.layers:
        weight = RoundedWeight.of(layer, model, name)
        if weight is not None and weight.name not in done:
            found[weight.name] = weight
    return list(found.values())


class RoundingTrainer:
    """Trains the rounding variables of one block."""

    def __init__(
        self,
        function: BlockFunction,
        given: Arrays,
        exact: Arrays,
        target: Arrays,
        size: int,
        rng: np.random.Generator,
    ) -> None:
        self.function, self.given, self.exact, self.target = function, given, exact, target
        self.size, self.rng = size, rng
        count = len(given[function.reads[0]])
        order = rng.permutation(count)
        held = max(1, count // _HELD_OUT)
        self.held, self.trained = order[:held], order[held:]
        self.power = {name: max(float((target[name] ** 2).mean()), 1e-12) for name in function.outputs}

    def run(self, steps: int, stop: float) -> tuple[float, float]:
        """Train until ``stop`` (`time.monotonic`); returns the errors before and after, and keeps what is better."""
        function = self.function
        present = [weight.present for weight in function.weights]
        before = self._error(present)
        chosen = self._train(steps, stop, max(before, 1e-12))
        after = self._error(chosen)
        for weight, array in zip(function.weights, chosen if after < before else present):
            function.layer.set_tensor(weight.name, array)
        return before, min(before, after)

    def _train(self, steps: int, stop: float, scale: float) -> list[np.ndarray]:
        weights = self.function.weights
        variables = [_start(weight) for weight in weights]
        count = sum(variable.size for variable in variables)
        lows = [paddle.to_tensor(weight.floor().astype(np.float32)) for weight in weights]
        scales = [paddle.to_tensor(weight.scale.astype(np.float32)) for weight in weights]
        adam = paddle.optimizer.Adam(MOST_RATE, parameters=variables)
        began, iteration = time.monotonic(), 0
        while iteration < steps:
            spent = (time.monotonic() - began) / max(stop - began, 1e-6)
            progress = max(iteration / steps, spent)
            if progress >= 1:
                break
            planned = iteration / progress if progress else steps
            adam.set_lr(min(MOST_RATE, TRAVEL / max(planned, 1.0)) * (1 - progress))
            softs = [_soft(variable) for variable in variables]
            arrays = [
                paddle.clip(low + soft, weight.grid.qmin, weight.grid.qmax) * step
                for weight, low, soft, step in zip(weights, lows, softs, scales)
            ]
            loss = self._loss(self.rng.choice(self.trained, min(self.size, len(self.trained)), replace=False), arrays)
            if progress > _WARMUP:
                beta = 2 + 18 * (1 - (progress - _WARMUP) / (1 - _WARMUP))
                open_ones = sum(((1 - paddle.abs(2 * soft - 1) ** beta).sum() for soft in softs), paddle.zeros([]))
                loss = loss + _REGULARIZATION * scale / count * open_ones
            loss.backward()
            adam.step()
            adam.clear_grad()
            iteration += 1
        return [_hard(weight, variable) for weight, variable in zip(weights, variables)]

    def _loss(self, picked: np.ndarray, weights: Sequence[Any]) -> Any:
        arrays = {}
        for name in self.function.reads:
            given = self.given[name][picked]
            if self.given[name] is not self.exact[name]:
                given = np.where(self.rng.random(given.shape, np.float32) < 0.5, given, self.exact[name][picked])
            arrays[name] = paddle.to_tensor(given)
        outputs = self.function(arrays, weights)
        losses = [
            ((output - paddle.to_tensor(self.target[name][picked])) ** 2).mean() / self.power[name]
            for name, output in zip(self.function.outputs, outputs)
        ]
        return sum(losses[1:], losses[0]) / len(losses)

    def _error(self, weights: Sequence[np.ndarray]) -> float:
        """Mean squared error of the outputs on the images held out, as a share of their power."""
        total, tensors = 0.0, [paddle.to_tensor(array) for array in weights]
        with paddle.no_grad():
            for start in range(0, len(self.held), self.size):
                picked = self.held[start : start + self.size]
                given = {name: paddle.to_tensor(self.given[name][picked]) for name in self.function.reads}
                for name, output in zip(self.function.outputs, self.function(given, tensors)):
                    error = float(((output.numpy() - self.target[name][picked]) ** 2).mean())
                    total += error / self.power[name] * len(picked) / len(self.held) / len(self.function.outputs)
        return total


def _start(weight: RoundedWeight) -> Any:
    """The variable at which the soft weight is half-way between the float weight and the present one."""
    floor = weight.floor()
    present = np.clip(np.rint(weight.present / weight.scale) - floor, 0, 1)
    part = np.clip(0.5 * (weight.exact / weight.scale - floor) + 0.5 * present, 0.01, 0.99)
    start = -np.log((_ZETA - _GAMMA) / (part - _GAMMA) - 1)
    return paddle.to_tensor(start.astype(np.float32), stop_gradient=False)


def _soft(variable: Any) -> Any:
    return paddle.clip(paddle.nn.functional.sigmoid(variable) * (_ZETA - _GAMMA) + _GAMMA, 0, 1)


def _hard(weight: RoundedWeight, variable: Any) -> np.ndarray:
    levels = np.clip(weight.floor() + (_soft(variable).numpy() >= 0.5), weight.grid.qmin, weight.grid.qmax)
    return np.asarray((levels * weight.scale).astype(weight.exact.dtype))
