"""Costs in closed form: multiply-accumulates, parameters and activation bytes of every node at any input size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from paddleseg_slim.graph.host import is_host
from paddleseg_slim.graph.ir import Graph
from paddleseg_slim.graph.ops import row
from paddleseg_slim.graph.shapes import infer_shapes

_BYTES = {"bool": 1, "int8": 1, "uint8": 1, "float16": 2, "bfloat16": 2, "int16": 2, "int32": 4, "float32": 4}


@dataclass(frozen=True)
class NodeCost:
    """What one node costs.

    Attributes:
        name: of the node.
        op: of the node.
        macs: multiply-accumulate operations.
        parameters: elements of the stored tensors that it is the first to read (statistics and fixed tensors too).
        bytes: size of its outputs.
        shape: of its first output.
    """

    name: str
    op: str
    macs: int
    parameters: int
    bytes: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Cost:
    """What a graph costs at one input size: a row a node, in order, without the integers computed from shapes."""

    nodes: tuple[NodeCost, ...]

    @property
    def macs(self) -> int:
        """Multiply-accumulate operations of convolutions and matrix products."""
        return sum(node.macs for node in self.nodes)

    @property
    def parameters(self) -> int:
        """Elements of all stored tensors, each counted once."""
        return sum(node.parameters for node in self.nodes)

    @property
    def activation_bytes(self) -> int:
        """Bytes of all activations together (not the peak)."""
        return sum(node.bytes for node in self.nodes)


def cost(graph: Graph, inputs: Sequence[Sequence[int]]) -> Cost:
    """Count the costs of ``graph``, for a GraphLayer usually ``layer.eval_graph``.

    Args:
        graph: what is counted.
        inputs: shape of every input: ``[(1, 3, 512, 512)]``.
    """
    shapes = infer_shapes(graph, [tuple(shape) for shape in inputs])
    counted: set[str] = set()
    table = []
    for node in graph.nodes:
        if is_host(node, shapes.host):
            continue
        names = {value.name for value in node.input_values() if graph.parameter_name(value)} - counted
        counted |= names
        known = row(node.op)
        outputs = [(math.prod(shapes.shape(value)), shapes.dtype(value)) for value in node.output_values()]
        first = node.output_values()[:1] if node.op == "batch_norm" else node.output_values()
        table.append(
            NodeCost(
                node.name,
                node.op,
                known.macs(node, shapes.shape) if known is not None and known.macs is not None else 0,
                sum(math.prod(graph.parameters[name].shape) for name in names),
                sum(size * _BYTES.get(dtype, 8) for size, dtype in outputs[: len(first)]),
                shapes.shape(node.out),
            )
        )
    return Cost(tuple(table))
