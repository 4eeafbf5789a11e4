"""Quantization-aware training: a quantized model whose train graph trains its weights and ranges."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import paddle

from paddleseg_slim.graph import GraphLayer, Node, Value
from paddleseg_slim.graph.layer import new_parameter
from paddleseg_slim.quant import node as fake
from paddleseg_slim.quant import quantizers
from paddleseg_slim.quant.node import TINY_SCALE
from paddleseg_slim.quant.norms import Norms
from paddleseg_slim.quant.quantizers import Quantizer, get_quantizer

FREEZE_AT = 0.8
"""Share of the training after which ranges that follow the batches stay as they are."""

LEARNED_RATE = 0.1
"""Factor on the learning rate of learned ranges: they are small numbers, which Adam would change by the same step."""


class Training:
    """The train form of a quantized model, from `begin` to `end`.

    The eval graph keeps its plain quantizers; both read the same stored scales, so what is evaluated is what will be
    exported. Normalisations are folded before (`ptq.prepare`); with ``norms`` they go on behind the folded layers.

    Args:
        layer: quantized, with ranges from a calibration; changed in place.
        weights: quantizer of the weights; ``channel_wise_abs_max`` and ``abs_max`` need grids of that kind.
        activations: quantizer of the activations.
        moving_rate: of ranges that are moving averages.
        norms: normalisations kept in the model; folded at the end.
    """

    def __init__(
        self,
        layer: GraphLayer,
        weights: str,
        activations: str,
        moving_rate: float = 0.9,
        norms: Norms | None = None,
    ) -> None:
        self.layer, self.norms = layer, norms
        self.weights, self.activations = get_quantizer(weights, "weights"), get_quantizer(activations, "activations")
        self.moving_rate = moving_rate

    def begin(self) -> None:
        """Turn the quantizers of the train graph into those that train."""
        for node, row in self._nodes(fake.OP):
            node.op = quantizers.OP
            node.attrs.update(quantizer=row.name, moving_rate=self.moving_rate)
            if row.learns_scale:
                self._learn(node, "scale")
            if row.learns_zero_point and isinstance(node.inputs.get("zero_point"), Value):
                self._learn(node, "zero_point")
        self.layer.train_graph.touch()

    def freeze(self) -> None:
        """Keep all ranges that follow the batches as they are from now on, and normalise by running statistics.

        The ranges of the weights are exact and go on.
        """
        if self.norms is not None:
            self.norms.freeze()
        for node, row in self._nodes(quantizers.OP):
            if row is self.activations and not row.learns_scale:
                node.attrs["moving_rate"] = 1.0
        self.layer.train_graph.touch()

    def keep_positive(self) -> None:
        """Undo a step of the optimizer that made a learned scale zero or negative."""
        for name in self.learned():
            if name.endswith(".scale"):
                tensor = self.layer.tensor(name)
                with paddle.no_grad():
                    tensor.set_value(paddle.clip(tensor, min=TINY_SCALE))

    def learned(self) -> list[str]:
        """Names of the learned scales and zero points."""
        return [name for name, tensor in self.layer.tensors() if name.startswith("quantizers.") and _trains(tensor)]

    def end(self) -> None:
        """Turn them back into plain quantizers and learned ranges into fixed ones."""
        for node, _ in self._nodes(quantizers.OP):
            node.op = fake.OP
            for name in ("quantizer", "moving_rate"):
                del node.attrs[name]
        if self.norms is not None:
            self.norms.fold()
        self._follow_weights()
        for name in self.learned():
            value = self.layer.tensor(name).numpy()
            tensor = paddle.to_tensor(value.round() if name.endswith(".zero_point") else value)
            tensor.stop_gradient = True
            holder, leaf = self.layer._places[name]
            del holder._parameters[leaf]
            self.layer.add_tensor(name, tensor)
        self.layer.train_graph.touch()

    def _follow_weights(self) -> None:
        """Bring the scales that are the largest of the weights up to the last step."""
        if self.weights.learns_scale:
            return
        from paddleseg_slim.quant.node import Grid
        from paddleseg_slim.quant.observers import weight_scales

        for node in fake.quantizers(self.layer.eval_graph):
            name = self.layer.eval_graph.parameter_name(node.value("x"))
            if name is not None:
                scales = weight_scales(self.layer.tensor(name).numpy(), Grid.of(node))
                self.layer.set_tensor(node.value("scale").name, scales)

    def _nodes(self, op: str) -> Iterator[tuple[Node, Quantizer]]:
        graph = self.layer.train_graph
        for node in graph.nodes:
            if node.op == op:
                yield node, self.weights if graph.parameter_name(node.value("x")) else self.activations

    def _learn(self, node: Node, argument: str) -> None:
        name = node.value(argument).name
        tensor = self.layer.tensor(name)
        if _trains(tensor):  # shared by several quantizers
            return
        holder, leaf = self.layer._places[name]
        del holder._buffers[leaf]
        self.layer.add_tensor(name, new_parameter(tensor, name.replace(".", "_"), True, LEARNED_RATE))


def _trains(tensor: Any) -> bool:
    return not tensor.stop_gradient
