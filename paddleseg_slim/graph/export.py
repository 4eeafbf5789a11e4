"""A graph back to Paddle Inference files."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from paddleseg_slim import compat
from paddleseg_slim.files import atomic_file
from paddleseg_slim.graph.ir import Graph
from paddleseg_slim.graph.layer import GraphLayer
from paddleseg_slim.graph.run import run_static


def build_program(
    graph: Graph, tensors: dict[str, Any], input_shapes: Sequence[Sequence[int]] | None = None
) -> tuple[Any, list[Any], list[Any]]:
    """Build ``graph`` as a PIR program whose parameters have their structured names.

    Args:
        graph: what is built.
        tensors: a tensor for every parameter of the graph (its type and shape are used).
        input_shapes: shape of every input, -1 for a dynamic axis; None: as captured.

    Returns:
        ``(program, input values, output values)``.
    """
    program = paddle.static.Program()
    shapes = input_shapes or [value.shape for value in graph.inputs]
    with compat.building(program):
        parameters = {name: compat.program_parameter(name, tensors[name]) for name in graph.parameters}
        inputs = [compat.placeholder(value.name, shape, value.dtype) for value, shape in zip(graph.inputs, shapes)]
        values = run_static(graph, inputs, parameters)
    return program, inputs, [values[value] for value in graph.output_values()]


def export_inference(
    layer: GraphLayer, prefix: str | os.PathLike[str], *, input_shapes: Sequence[Sequence[int]] | None = None
) -> list[Path]:
    """Write the eval graph as Paddle Inference files.

    Args:
        layer: what is exported.
        prefix: path without suffix.
        input_shapes: shape of every input, -1 for a dynamic axis; None: as captured.

    Returns:
        the files written: ``prefix.json`` and ``prefix.pdiparams``.
    """
    with tempfile.TemporaryDirectory() as folder:
        written = []
        for source in _files(layer, Path(folder), input_shapes):
            target = Path(f"{os.fspath(prefix)}{source.suffix}")
            with atomic_file(target) as temporary:
                shutil.copyfile(source, temporary)
            written.append(target)
    return written


def _files(layer: GraphLayer, folder: Path, input_shapes: Sequence[Sequence[int]] | None) -> list[Path]:
    graph = layer.eval_graph
    tensors = {name: layer.tensor(name) for name in graph.parameters}
    program, inputs, outputs = build_program(graph, tensors, input_shapes)
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    save_program(program, inputs, outputs, arrays, folder / "model")
    files = [folder / "model.json", folder / "model.pdiparams"]
    if not files[1].exists():  # a model without parameters
        files[1].write_bytes(b"")
    return files


def save_program(
    program: Any, inputs: Sequence[Any], outputs: Sequence[Any], arrays: dict[str, np.ndarray], prefix: Path
) -> None:
    """Write a program with its parameters in the format of the running Paddle."""
    scope = paddle.static.Scope()
    for name, array in arrays.items():
        scope.var(name).get_tensor().set(array, paddle.CPUPlace())
    with paddle.static.scope_guard(scope), compat.building(program):
        executor = paddle.static.Executor(paddle.CPUPlace())
        paddle.static.save_inference_model(str(prefix), list(inputs), list(outputs), executor, program=program)
