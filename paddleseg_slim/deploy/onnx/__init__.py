"""ONNX files written from a graph: one function an op, registered by `builder.writes`, in files by subject."""

from __future__ import annotations

from paddleseg_slim.deploy.onnx import conv, elementwise, matrix, norm, pool, quant, reduce, resize, shape
from paddleseg_slim.deploy.onnx.builder import WRITERS, Builder, writes
from paddleseg_slim.deploy.onnx.write import OPSETS, graph_to_onnx, output_name, write_onnx

__all__ = ["OPSETS", "WRITERS", "Builder", "graph_to_onnx", "output_name", "write_onnx", "writes"]

_SUBJECTS = (conv, elementwise, matrix, norm, pool, quant, reduce, resize, shape)
"""The modules whose import fills the table of functions."""
