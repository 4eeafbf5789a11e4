"""Weights stored in 8 bits and computed in float: look-up tables (embeddings), and any other weight that is asked for.

What PaddleSlim calls embedding quantization: ``abs_max`` keeps integers of one step a row (a word), ``log2`` signs and
exponents of two, which suits tables whose values span orders of magnitude. The model's arithmetic stays float; the file
is a quarter of the size.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import paddle

from paddleseg_slim.errors import UserError, nearest
from paddleseg_slim.graph import GraphLayer, Value, add_node, replace_value
from paddleseg_slim.graph.ops import OpRow, register_op
from paddleseg_slim.quant.insert import tensor_name
from paddleseg_slim.quant.node import OP, symmetric
from paddleseg_slim.quant.observers import weight_scales

LOG2 = "slim.log2_quant"
METHODS = ("abs_max", "log2")
EXPONENTS = 63
"""Exponents below the largest that are told apart; with a sign and zero, 127 codes."""

TABLES = {"embedding": "weight"}
"""Ops that look rows up, and the argument of their table."""


def log2_quant(x: Any, top: int) -> Any:
    """The nearest power of two, at most ``2 ** top``, with the sign of ``x``; 0 for what is below half the smallest."""
    magnitude = paddle.abs(x)
    exponent = paddle.round(paddle.log2(paddle.clip(magnitude, min=2.0 ** (top - EXPONENTS - 1))))
    power = 2.0 ** paddle.clip(exponent, top - EXPONENTS + 1, top)
    return paddle.where(magnitude < 2.0 ** (top - EXPONENTS), paddle.zeros_like(x), paddle.sign(x) * power)


register_op(OpRow(LOG2, run=log2_quant))


def quantize_tables(layer: GraphLayer, method: str = "abs_max", names: Collection[str] | None = None) -> list[str]:
    """Store tables in 8 bits, in place.

    Args:
        layer: any model.
        method: ``abs_max`` or ``log2``.
        names: names of the stored weights, linear layers' too; None: the tables of all `TABLES`.

    Returns:
        names of the weights that are stored so.

    Raises:
        UserError: an unknown method, a name that no stored weight has, or no table at all.
    """
    if method not in METHODS:
        raise UserError(f"Unknown way to quantize a table: {method!r}.", nearest(method, METHODS))
    known = [name for name, tensor in layer.tensors() if len(tensor.shape) == 2]
    wrong = [name for name in names or () if name not in known]
    if wrong:
        raise UserError(f"No stored matrix is called {wrong[0]!r}.", nearest(wrong[0], known))
    chosen = list(names) if names else tables_of(layer)
    for name in chosen:
        _quantize(layer, name, method)
    return chosen


def tables_of(layer: GraphLayer) -> list[str]:
    """Names of the stored tables that rows are looked up in.

    Raises:
        UserError: there is none.
    """
    nodes = [node for graph in layer.graphs for node in graph.nodes if node.op in TABLES]
    found = dict.fromkeys(
        node.value(TABLES[node.op]).name for node in nodes if node.value(TABLES[node.op]).producer is None
    )
    if not found:
        raise UserError("The model looks nothing up in a table.", "Leave the quantization of tables out.")
    return list(found)


def _quantize(layer: GraphLayer, name: str, method: str) -> None:
    array = layer.tensor(name).numpy()
    inputs: dict[str, Value]
    if method == "abs_max":
        grid = symmetric(8, axis=0)
        scale = tensor_name(name, "scale")
        layer.add_tensor(scale, paddle.to_tensor(weight_scales(array, grid)))
        layer.tensor(scale).stop_gradient = True
        layer.add_parameter_value(scale)
    for graph in layer.graphs:
        if name not in graph.parameters:
            continue
        value = graph.parameters[name]
        readers = graph.users(value)
        if method == "abs_max":
            inputs = {"x": value, "scale": graph.parameters[scale]}
            node = add_node(graph, None, OP, f"{name}/fake_quant", inputs, grid.attrs())
        else:
            top = int(np.round(np.log2(max(float(np.abs(array).max()), 1e-30))))
            node = add_node(graph, None, LOG2, f"{name}/log2_quant", {"x": value}, {"top": top})
        replace_value(graph, value, node.out, readers)
        graph.check()
