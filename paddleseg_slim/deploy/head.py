"""What an exported model does behind its logits, and how far its output may be from them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from paddleseg_slim.deploy.description import OUTPUT_OPS
from paddleseg_slim.errors import UserError
from paddleseg_slim.graph import Graph, GraphLayer, Value, add_node, remove_dead_nodes

OUTPUT_DTYPES = {"argmax": "int32", "softmax": "float32", "none": "float32"}

_ATTRS: dict[str, dict[str, Any]] = {
    "argmax": {"axis": 1, "keepdims": False, "flatten": False, "dtype": "int32"},
    "softmax": {"axis": 1},
}


def with_head(layer: GraphLayer, logits: Callable[[Any], Any], output_op: str) -> GraphLayer:
    """The model as it is exported: of its outputs the main logits alone, and ``output_op`` on them.

    Heads and parameters that only the other outputs need are gone. The stored tensors are shared with ``layer``, which
    stays as it is.

    Args:
        layer: the model; its eval graph is taken.
        logits: picks the main logits among the model's outputs (`tasks.base.Task.logits`).
        output_op: ``argmax`` (int32 ``[N, ...]``), ``softmax`` or ``none`` (float32 ``[N, classes, ...]``).

    Raises:
        UserError: an unknown ``output_op``, or the model does not end in logits (it has been exported with one).
    """
    if output_op not in OUTPUT_OPS:
        raise UserError(f"--output_op is {output_op!r}.", f"It must be one of {', '.join(OUTPUT_OPS)}.")
    graph = layer.eval_graph.clone()
    value: Value = logits(graph.outputs)
    if not value.dtype.startswith("float") or len(value.shape) < 2:
        raise UserError(
            f"The model gives {value.dtype} {list(value.shape)}, not logits.", "Export it from its weights, not again."
        )
    if output_op != "none":
        value = _append(graph, value, output_op)
    graph.outputs = [value]
    graph.updates = {}  # a file keeps no state
    remove_dead_nodes(graph)
    result = GraphLayer(graph, graph, layer.record, layer.origin)
    for name in graph.parameters:
        result.add_tensor(name, layer.tensor(name))
    result.eval()
    return result


def _append(graph: Graph, value: Value, output_op: str) -> Value:
    node = add_node(graph, value.producer, output_op, output_op, {"x": value}, _ATTRS[output_op])
    if output_op == "argmax":
        node.out.dtype, node.out.shape = "int32", (value.shape[0], *value.shape[2:])
    return node.out


def relative_error(logits: np.ndarray, output: np.ndarray, output_op: str) -> float:
    """How far an exported model's output is from the logits of the model it was made of, as a share of their range.

    For ``softmax`` it is the largest difference of a probability. For ``argmax`` it is how much the logit of the class
    given is below the highest one: a tie that falls the other way counts nothing. NaN, or an output of another shape,
    is infinitely far.

    Args:
        logits: float ``[N, classes, ...]`` of the source model.
        output: what the exported model gave for the same input.
        output_op: see `with_head`.
    """
    if output_op == "argmax":
        expected = logits.max(axis=1)
        if output.shape != expected.shape or output.min() < 0 or output.max() >= logits.shape[1]:
            return float("inf")
        got = np.take_along_axis(logits, output.astype(np.int64)[:, None], axis=1)[:, 0]
    else:
        expected, got = (_softmax(logits) if output_op == "softmax" else logits), output
    if got.shape != expected.shape:
        return float("inf")
    spread = 1.0 if output_op == "softmax" else float(logits.max() - logits.min())
    error = float(np.abs(expected.astype(np.float64) - got).max()) / max(spread, 1e-12)
    return error if np.isfinite(error) else float("inf")


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    result: np.ndarray = powers / powers.sum(axis=1, keepdims=True)
    return result


HEADS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "argmax": lambda logits: logits.argmax(axis=1),
    "softmax": _softmax,
    "none": lambda logits: logits,
}
"""The output operations on logits ``[N, classes, ...]`` in NumPy."""
