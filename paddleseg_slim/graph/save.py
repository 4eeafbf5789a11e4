"""The package's own format: a folder with ``graph.json``, ``weights.safetensors`` and ``compression.json``.

Nothing in it is executable, and `load` needs no class of the model.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from paddleseg_slim.files import atomic_folder, sha256, write_json
from paddleseg_slim.graph.layer import GraphLayer
from paddleseg_slim.graph.serial import graph_to_dict
from paddleseg_slim.version import __version__

FORMAT = "paddleseg_slim.graph"
FORMAT_VERSION = 2
"""Version 2 has updates of stored tensors; a graph without them is written as version 1, which older readers take."""

GRAPH, WEIGHTS, RECORD = "graph.json", "weights.safetensors", "compression.json"


def save(layer: GraphLayer, path: str | os.PathLike[str]) -> Path:
    """Write ``layer`` as the folder ``path``, whole or not at all; a folder that stood there is replaced.

    Returns:
        the folder.
    """
    version = FORMAT_VERSION if any(graph.updates for graph in layer.graphs) else 1
    with atomic_folder(path) as folder:
        tensors, arrays = describe_tensors(layer)
        save_file(arrays, str(folder / WEIGHTS))
        write_json(
            folder / GRAPH,
            {
                "format": FORMAT,
                "format_version": version,
                "package_version": __version__,
                "origin": layer.origin,
                "weights_sha256": sha256(folder / WEIGHTS),
                "tensors": tensors,
                "train": graph_to_dict(layer.train_graph),
                "eval": graph_to_dict(layer.eval_graph),
            },
        )
        write_json(folder / RECORD, {"format_version": 1, "record": layer.record})
    return Path(path)


def describe_tensors(layer: GraphLayer) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Every stored tensor: what it is, and its array; a tensor under two names is stored once."""
    described: list[dict[str, Any]] = []
    arrays: dict[str, np.ndarray] = {}
    first: dict[int, str] = {}
    for name, tensor in layer.tensors():
        if id(tensor) in first:
            described.append({"name": name, "same_as": first[id(tensor)]})
            continue
        first[id(tensor)] = name
        described.append({"name": name, "key": tensor.name, **layer.tensor_kind(name)})
        array = tensor.astype("float32").numpy() if "bfloat16" in str(tensor.dtype) else tensor.numpy()
        arrays[name] = np.asarray(array, order="C")  # `ascontiguousarray` would give a scalar an axis
    return described, arrays
