"""Paddle Inference files as a GraphLayer that can be trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from paddleseg_slim import compat
from paddleseg_slim.errors import UserError
from paddleseg_slim.graph.edit import remove_dead_nodes
from paddleseg_slim.graph.ir import Graph
from paddleseg_slim.graph.layer import GraphLayer, new_parameter
from paddleseg_slim.graph.pir import ProgramReader

_OLD_NAMES = ("__model__", "model")
_OLD_PARAMS = ("__params__", "params", "__variables__")


def find_files(path: Path) -> tuple[Path, Path | None]:
    """The program and the parameter file (None: one file a parameter) that ``path`` names.

    Raises:
        UserError: nothing is there, more than one model, or no parameters.
    """
    if path.is_dir():
        programs = sorted([*path.glob("*.pdmodel"), *(p for p in path.glob("*.json") if _parameters(p).is_file())])
        programs += [path / name for name in _OLD_NAMES if (path / name).is_file()]
    elif path.suffix == ".pdiparams":
        return find_files(path.with_suffix(""))
    else:
        candidates = [path, Path(f"{path}.json"), Path(f"{path}.pdmodel")]
        programs = [candidate for candidate in candidates if candidate.is_file()][:1]
    if programs and programs[0].suffix in (".pdparams", ".safetensors", ".onnx"):
        what = "an ONNX file" if programs[0].suffix == ".onnx" else "weights without a graph"
        raise UserError(
            f"{path} is {what}, not a model of Paddle Inference.",
            "Name a saved graph or an exported .json / .pdmodel, or give the model by its config.",
        )
    if not programs:
        raise UserError(
            f"{path} holds no model.",
            "Name a folder written by this package, or the .json / .pdmodel of an exported model.",
        )
    if len(programs) > 1:
        raise UserError(f"{path} holds {len(programs)} models: {', '.join(p.name for p in programs)}.", "Name one.")
    return programs[0], _parameter_file(programs[0])


def _parameters(program: Path) -> Path:
    return program.with_suffix(".pdiparams")


def _parameter_file(program: Path) -> Path | None:
    if program.name not in _OLD_NAMES:
        if not _parameters(program).is_file():
            raise UserError(f"{_parameters(program)} is missing.", "Put the parameters beside the program.")
        return _parameters(program)
    joint = [program.parent / name for name in _OLD_PARAMS if (program.parent / name).is_file()]
    return joint[0] if joint else None


def load_inference(path: Path) -> GraphLayer:
    """Load Paddle Inference files.

    Parameters keep the names that the file gives them. All floating-point parameters are trainable but the
    statistics of batch normalisation.

    Raises:
        UserError: the files cannot be read, or hold what a graph cannot.
    """
    model, params = find_files(path)
    if not model.stat().st_size:
        raise UserError(f"{model} has 0 bytes.", "Export or copy the model again.")
    if model.suffix == ".json":
        _check_json(model)
    try:
        program, arrays = compat.read_program(model, params)
    except (ValueError, RuntimeError, OSError, AttributeError) as error:
        reason = next((line for line in str(error).splitlines() if "rror" in line), str(error)).strip()
        raise UserError(f"{model} cannot be read as a Paddle model: {reason[:200]}", "Export it again.") from error
    reader = ProgramReader(program, _Names(_stored_names(program)).name)
    graph = reader.read()
    graph.parameters = {value.name: value for value in reader.stored.values()}
    columns = _columns(program)
    graph.inputs.sort(key=lambda value: columns.get(value.name, 0))  # a program may declare them in any order
    graph.outputs = list(reader.fetched)
    remove_dead_nodes(graph)
    graph.check()
    layer = GraphLayer(training_graph(graph), graph, origin="loaded")
    statistics = {
        node.value(argument).name
        for node in graph.nodes
        if node.op == "batch_norm"
        for argument in ("mean", "variance")
    }
    for name in graph.parameters:
        array = arrays[name]
        trainable = np.issubdtype(array.dtype, np.floating) and name not in statistics
        layer.add_tensor(name, new_parameter(paddle.to_tensor(array), name, trainable))
    return layer


def _check_json(path: Path) -> None:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged: {error}", "Export the model again.") from error
    if not isinstance(data, dict) or "program" not in data:
        raise UserError(f"{path} is no program of Paddle.", "Name the .json that Paddle exported.")


def training_graph(graph: Graph) -> Graph:
    """The train graph of a model of which only the eval graph is known.

    Batch normalisation uses and moves the statistics of the batch again, dropout drops again. What an export had
    removed (auxiliary heads, stochastic depth) stays away.
    """
    train = graph.clone()
    for node in train.nodes:
        if node.op == "batch_norm":
            node.attrs.update(is_test=False, use_global_stats=False)
        elif node.op == "dropout":
            node.attrs.update(is_test=False)
    train.touch()
    return train


def _columns(program: Any) -> dict[str, int]:
    """Position among the inputs by name, where the program says it."""
    feeds = [operation.attrs() for operation in program.global_block().ops if operation.name() == "pd_op.feed"]
    return {attrs["name"]: int(attrs["col"]) for attrs in feeds}


def _stored_names(program: Any) -> set[str]:
    """Names of the inputs and parameters of a program."""
    keys = {"builtin.parameter": "parameter_name", "pd_op.data": "name", "pd_op.feed": "name"}
    operations = program.global_block().ops
    return {operation.attrs()[keys[operation.name()]] for operation in operations if operation.name() in keys}


class _Names:
    """Names for the nodes of a program without a layer tree: from its parameters where they tell, else by op."""

    def __init__(self, taken: set[str]) -> None:
        self._taken = set(taken)

    def name(self, operation: Any, op: str) -> tuple[str, str]:
        """The layer path and the node name of an operation."""
        stem = next((name.rpartition(".")[0] for name in _read_parameters(operation)), "")
        full = f"{stem}/{op}" if stem else op
        name, count = stem or op, 0
        while name in self._taken:
            name = f"{full}_{count}" if count else full
            count += 1
        self._taken.add(name)
        return stem, name


def _read_parameters(operation: Any) -> list[str]:
    """Names of the parameters that an operation reads."""
    operands = [item for item in operation.operands_source() if item is not None and item.initialized()]
    producers = [item.get_defining_op() for item in operands]
    return [item.attrs()["parameter_name"] for item in producers if item.name() == "builtin.parameter"]
