"""The interface by which a part of a graph is run where no gradient is needed, and Paddle's own implementation.

Other engines implement the same two methods and are handed in from outside; this folder imports none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import paddle

from paddleseg_slim.graph.ir import Graph
from paddleseg_slim.graph.run import Plan


class Runner(Protocol):
    """A graph made ready for an engine."""

    def __call__(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run it.

        Args:
            feeds: an array for every input of the graph, by value name.

        Returns:
            an array for every output value of the graph, by value name.
        """
        ...


class Executor(Protocol):
    """An engine that runs graphs."""

    name: str

    def prepare(
        self, graph: Graph, tensors: Mapping[str, np.ndarray], shapes: Mapping[str, Sequence[int]] | None = None
    ) -> Runner:
        """Make ``graph`` ready (a session, an engine); may be slow, so prepare once and run often.

        Args:
            graph: any graph, usually a part cut by `extract` or `split`.
            tensors: an array for every parameter of the graph.
            shapes: of inputs by name, -1 for any length, where more is known than the graph says; an engine may take
                faster kernels then, and refuse arrays of another shape.

        Raises:
            UserError: the engine lacks an op; the message names the node.
        """
        ...


class PaddleExecutor:
    """Runs graphs through Paddle's eager kernels."""

    name = "paddle"

    def prepare(
        self, graph: Graph, tensors: Mapping[str, np.ndarray], shapes: Mapping[str, Sequence[int]] | None = None
    ) -> Runner:
        """Bind the calls of ``graph`` to ``tensors`` (arrays or Paddle tensors, the latter shared), for any shapes."""
        table = {name: _tensor(tensors[name]) for name in graph.parameters}
        plan = Plan(graph, graph.output_values())
        parameters: list[tuple[int, dict[str, Any], str]] = [(slot, table, name) for slot, name in plan.parameters]

        def run(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            with paddle.no_grad():
                inputs = [_tensor(feeds[value.name]) for value in graph.inputs]
                results = plan.run(inputs, parameters)
            return {value.name: tensor.numpy() for value, tensor in zip(plan.wanted, results)}

        return run


def _tensor(item: Any) -> Any:
    return item if isinstance(item, paddle.Tensor) else paddle.to_tensor(item)
