"""Running a model bit by bit on a few images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import paddle

from paddleseg_slim.graph import Graph, GraphLayer, Value, extract, fix_size
from paddleseg_slim.graph.run import Plan

_BATCH = 8
_MOST_BYTES = 2 << 30
"""Of activations of both models together; see `images_that_fit`."""

_ALIVE = 6
"""How many of the largest activations are taken to be alive at a time, both models together."""


class Running:
    """A model that is run up to one value after the other, on all images; what it has computed is kept.

    Args:
        model: its eval graph is run.
        batches: float32 ``[N, 3, H, W]``, all of one shape.
        graph: run this one, made of the eval graph for this shape.
        feeds: arrays for its inputs besides the images, by name.
    """

    def __init__(
        self,
        model: GraphLayer,
        batches: Sequence[np.ndarray],
        graph: Graph | None = None,
        feeds: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        self.model = model
        self.graph = fix_size(model.eval_graph, [batches[0].shape]) if graph is None else graph
        self._values: dict[Value, list[Any]] = {self.graph.inputs[0]: [paddle.to_tensor(batch) for batch in batches]}
        for value in self.graph.inputs[1:]:
            self._values[value] = [paddle.to_tensor((feeds or {})[value.name])] * len(batches)

    def value(self, value: Value) -> list[Any]:
        """Tensors of ``value``, one a batch, by the weights that the model has now."""
        if value not in self._values:
            part = extract(self.graph, self._values, [value])
            plan = Plan(part, part.output_values())
            table = {name: self.model.tensor(name) for _, name in plan.parameters}
            parameters: list[tuple[int, dict[str, Any], str]] = [(slot, table, name) for slot, name in plan.parameters]
            given = [self._values[self.graph.value(v.name)] for v in part.inputs]
            with paddle.no_grad():
                self._values[value] = [plan.run(list(items), parameters)[0] for items in zip(*given)]
        return self._values[value]

    def forget(self, coming: Sequence[Value]) -> None:
        """Free what none of the ``coming`` values is computed from."""
        read = set(coming)
        for node in self.graph.ancestors(coming, self._values):
            read.update(node.input_values())
        self._values = {value: tensors for value, tensors in self._values.items() if value in read}


def batches_of(images: Sequence[np.ndarray]) -> list[np.ndarray]:
    """All images in batches of equal size, two at least where there are two images."""
    most = max(1, min(_BATCH, len(images) // 2))
    size = next(size for size in range(most, 0, -1) if len(images) % size == 0)
    return [np.concatenate(images[i : i + size]) for i in range(0, len(images), size)]


def images_that_fit(model: GraphLayer, shape: Sequence[int]) -> int:
    """How many images of this shape ``[1, 3, H, W]`` can be looked at within the memory set aside, at least two."""
    graph = fix_size(model.eval_graph, [tuple(shape)])
    largest = max(int(np.prod(value.shape)) * 4 for node in graph.nodes for value in node.output_values())
    return max(2, _MOST_BYTES // (largest * _ALIVE))
