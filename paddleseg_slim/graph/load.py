"""`load`: a GraphLayer from the package's own folder or from Paddle Inference files, without the class of the model."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from safetensors import SafetensorError
from safetensors.numpy import load_file

from paddleseg_slim.errors import UserError
from paddleseg_slim.files import recover_folder, sha256
from paddleseg_slim.graph.inference import load_inference
from paddleseg_slim.graph.ir import InvalidGraph
from paddleseg_slim.graph.layer import GraphLayer, new_parameter
from paddleseg_slim.graph.save import FORMAT, FORMAT_VERSION, GRAPH, RECORD, WEIGHTS
from paddleseg_slim.graph.serial import graph_from_dict


def load(path: str | os.PathLike[str]) -> GraphLayer:
    """Load a model.

    Args:
        path: a folder written by `save`; or Paddle Inference files, named by the folder they are in, by their path
            without suffix, or by either file: ``.json`` or ``.pdmodel`` with ``.pdiparams``, or ``__model__`` with
            a parameter file or one file a parameter.

    Returns:
        the layer, in eval mode. Paddle Inference files have an eval graph only; see `inference.training_graph`.

    Raises:
        UserError: there is no such model, or the files are damaged, or written by a newer version of the package.
    """
    target = Path(path)
    recover_folder(target)
    if target.name == GRAPH:
        target = target.parent
    layer = _load_own(target) if (target / GRAPH).is_file() else load_inference(target)
    layer.eval()
    return layer


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}", "Copy or write the model again.") from error


def _load_own(folder: Path) -> GraphLayer:
    data = _read_json(folder / GRAPH)
    version = data.get("format_version") if isinstance(data, dict) else None
    if not isinstance(data, dict) or data.get("format") != FORMAT or not isinstance(version, int):
        raise UserError(f"{folder / GRAPH} is no graph of this package.", "Name a folder that the package wrote.")
    if version > FORMAT_VERSION:
        raise UserError(
            f"{folder} has format {version}; this version of paddleseg_slim reads up to {FORMAT_VERSION}.",
            f"Install paddleseg_slim {data.get('package_version')} or newer.",
        )
    record = _read_json(folder / RECORD)
    arrays = _read_weights(folder / WEIGHTS, str(data.get("weights_sha256")))
    try:
        layer = GraphLayer(
            graph_from_dict(data["train"]), graph_from_dict(data["eval"]), record["record"], data["origin"]
        )
        for item in data["tensors"]:
            _add(layer, item, arrays)
        for graph in layer.graphs:
            graph.check()
            _check_stored(layer, graph.parameters)
    except (KeyError, TypeError, ValueError, AttributeError, InvalidGraph) as error:
        raise UserError(
            f"{folder / GRAPH} is damaged: {type(error).__name__} {error}", "Copy or write the model again."
        ) from error
    return layer


def _read_weights(path: Path, expected: str) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise UserError(f"{path} is missing.", "Copy or write the model again.")
    if sha256(path) != expected:
        raise UserError(f"{path} is not the file that graph.json was written with.", "Copy or write the model again.")
    try:
        return dict(load_file(str(path)))
    except SafetensorError as error:
        raise UserError(f"{path} is damaged: {error}", "Copy or write the model again.") from error


def _add(layer: GraphLayer, item: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    name = item["name"]
    if "same_as" in item:
        layer.add_tensor(name, layer.tensor(item["same_as"]))
        return
    tensor = paddle.to_tensor(arrays[name], dtype=item["dtype"])
    if item["parameter"]:
        tensor = new_parameter(tensor, item["key"], item["trainable"], item["learning_rate"])
    else:
        tensor.name = item["key"]
        tensor.stop_gradient = not item["trainable"]
    layer.add_tensor(name, tensor, item["persistable"])


def _check_stored(layer: GraphLayer, parameters: dict[str, Any]) -> None:
    for name, value in parameters.items():
        if tuple(layer.tensor(name).shape) != value.shape:
            raise ValueError(f"{name} has shape {layer.tensor(name).shape}, the graph says {list(value.shape)}")
