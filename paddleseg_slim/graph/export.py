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
from paddleseg_slim.errors import UserError
from paddleseg_slim.files import atomic_file
from paddleseg_slim.graph.ir import Graph
from paddleseg_slim.graph.layer import GraphLayer
from paddleseg_slim.graph.old_format import write_old_format
from paddleseg_slim.graph.part import fix_size
from paddleseg_slim.graph.run import run_static

FILE_FORMATS = {"json": ".json", "pdmodel": ".pdmodel"}
"""Suffix of the program: Paddle 3's own format (PIR), and that of Paddle 2."""


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
    layer: GraphLayer,
    prefix: str | os.PathLike[str],
    *,
    input_shapes: Sequence[Sequence[int]] | None = None,
    file_format: str = "json",
) -> list[Path]:
    """Write the eval graph as Paddle Inference files; a program of the other format that stood there goes.

    Args:
        layer: what is exported.
        prefix: path without suffix.
        input_shapes: shape of every input, -1 for a dynamic axis; None: as captured.
        file_format: ``json`` (PIR, what Paddle 3 writes) or ``pdmodel`` (what Paddle 2 reads too).

    Returns:
        the files written: ``prefix.json`` or ``prefix.pdmodel``, and ``prefix.pdiparams``.

    Raises:
        UserError: the format is unknown, or ``pdmodel`` cannot hold an op of the model; the cause names it.
    """
    if file_format not in FILE_FORMATS:
        raise UserError(f"There is no file format {file_format!r}.", f"Give one of {', '.join(FILE_FORMATS)}.")
    graph = layer.eval_graph
    shapes = [tuple(shape) for shape in input_shapes or [value.shape for value in graph.inputs]]
    with tempfile.TemporaryDirectory() as folder:
        written = []
        for source in _files(layer, Path(folder), shapes, file_format):
            target = Path(f"{os.fspath(prefix)}{source.suffix}")
            with atomic_file(target) as temporary:
                shutil.copyfile(source, temporary)
            written.append(target)
    for suffix in FILE_FORMATS.values():  # its weights were just replaced
        if suffix != written[0].suffix:
            Path(f"{os.fspath(prefix)}{suffix}").unlink(missing_ok=True)
    return written


def _files(layer: GraphLayer, folder: Path, shapes: list[tuple[int, ...]], file_format: str) -> list[Path]:
    graph = layer.eval_graph
    tensors = {name: layer.tensor(name) for name in graph.parameters}
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    if file_format == "pdmodel":
        if all(size > 0 for shape in shapes for size in shape):
            graph = fix_size(graph, shapes)
        write_old_format(graph, {name: arrays[name] for name in graph.parameters}, folder / "model", shapes)
    else:
        program, inputs, outputs = build_program(graph, tensors, shapes)
        save_program(program, inputs, outputs, arrays, folder / "model")
    files = [folder / f"model{FILE_FORMATS[file_format]}", folder / "model.pdiparams"]
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
