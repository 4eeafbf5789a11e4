"""The graph: any Paddle model captured, run, trained, edited, saved and loaded without its Python class."""

from paddleseg_slim import compat  # noqa: F401  (first: it says clearly when Paddle is missing)
from paddleseg_slim.graph.capture import capture
from paddleseg_slim.graph.cost import Cost, NodeCost, cost
from paddleseg_slim.graph.edit import (
    add_node,
    insert_node,
    remove_dead_nodes,
    remove_node,
    replace_value,
)
from paddleseg_slim.graph.executor import Executor, PaddleExecutor, Runner
from paddleseg_slim.graph.export import FILE_FORMATS, export_inference
from paddleseg_slim.graph.fold import fold_batch_norm, fold_constants, uses_stored_statistics
from paddleseg_slim.graph.ir import Graph, InvalidGraph, Node, Slot, Value, flatten, map_structure
from paddleseg_slim.graph.layer import GraphLayer
from paddleseg_slim.graph.load import load
from paddleseg_slim.graph.ops import OpRow, data_argument, extend_op, register_op, row, rows
from paddleseg_slim.graph.part import extract, fix_size, split
from paddleseg_slim.graph.save import save
from paddleseg_slim.graph.shapes import infer_shapes, refresh_shapes

__all__ = [
    "FILE_FORMATS",
    "Cost",
    "Executor",
    "Graph",
    "GraphLayer",
    "InvalidGraph",
    "Node",
    "NodeCost",
    "OpRow",
    "PaddleExecutor",
    "Runner",
    "Slot",
    "Value",
    "add_node",
    "capture",
    "cost",
    "data_argument",
    "export_inference",
    "extend_op",
    "extract",
    "fix_size",
    "flatten",
    "fold_batch_norm",
    "fold_constants",
    "infer_shapes",
    "insert_node",
    "load",
    "map_structure",
    "refresh_shapes",
    "register_op",
    "remove_dead_nodes",
    "remove_node",
    "replace_value",
    "row",
    "rows",
    "save",
    "split",
    "uses_stored_statistics",
]
