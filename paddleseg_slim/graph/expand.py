"""Nodes that run by a function of their own, as the ops of Paddle that the function is made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from typing import Any

import paddle

from paddleseg_slim import compat
from paddleseg_slim.graph.edit import replace_value
from paddleseg_slim.graph.ir import Graph, Node, Value, map_structure
from paddleseg_slim.graph.ops import own_function
from paddleseg_slim.graph.pir import ProgramReader


def expand_own_ops(graph: Graph, keep: Collection[str] = ()) -> Graph:
    """A copy of ``graph`` without nodes that `ops.own_function` runs, except ops in ``keep``.

    A quantizer becomes a division, a rounding, a clip and a product.
    """
    copy = graph.clone()
    nodes: list[Node] = []
    for node in copy.nodes:
        function = own_function(node) if node.op not in keep else None
        if function is None:
            nodes.append(node)
            continue
        made, results = _traced(function, node)
        nodes.extend(made)
        for old, new in zip(node.output_values(), results):
            replace_value(copy, old, new)
    copy.nodes = nodes
    copy.touch()
    copy.check()
    return copy


def _traced(function: Callable[..., Any], node: Node) -> tuple[list[Node], list[Value]]:
    """The nodes that ``function`` builds for ``node``, reading what it reads, and their results."""
    counts: Counter[str] = Counter()

    def name(_: Any, op: str) -> tuple[str, str]:
        counts[op] += 1
        return node.layer, f"{node.name}/{op}_{counts[op]}"

    program = paddle.static.Program()
    read = {value.name: value for value in node.input_values()}
    with compat.building(program):
        values = {name: compat.placeholder(name, value.shape, value.dtype) for name, value in read.items()}
        inputs = {
            key: map_structure(lambda item: values[item.name] if isinstance(item, Value) else item, slot)
            for key, slot in node.inputs.items()
        }
        result = function(**node.attrs, **inputs)
    reader = ProgramReader(program, name)
    part = reader.read()
    for item in part.nodes:
        for value in part.inputs:
            item.replace_input(value, read[value.name])
    results = result if isinstance(result, (list, tuple)) else [result]
    return list(part.nodes), [reader.value(item) for item in results]
