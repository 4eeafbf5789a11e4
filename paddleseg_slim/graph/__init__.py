"""The graph: any Paddle model captured, run, trained, edited, saved and loaded without its Python class."""

from paddleseg_slim.graph.capture import capture
from paddleseg_slim.graph.edit import remove_dead_nodes
from paddleseg_slim.graph.ir import Graph, Node, Slot, Value, flatten, map_structure
from paddleseg_slim.graph.layer import GraphLayer
from paddleseg_slim.graph.ops import OpRow, extend_op, register_op, row, rows
from paddleseg_slim.graph.shapes import infer_shapes, refresh_shapes

__all__ = [
    "Graph",
    "GraphLayer",
    "Node",
    "OpRow",
    "Slot",
    "Value",
    "capture",
    "extend_op",
    "flatten",
    "infer_shapes",
    "map_structure",
    "refresh_shapes",
    "register_op",
    "remove_dead_nodes",
    "row",
    "rows",
]
