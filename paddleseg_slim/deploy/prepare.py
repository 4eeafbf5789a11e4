"""A model file for an engine: the one that is there, or one written from what is there."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from paddleseg_slim.deploy.runtimes import find_model
from paddleseg_slim.errors import UserError

_READS_ONNX = ("onnxruntime", "openvino", "tensorrt")


def model_file(path: str | os.PathLike[str], engine: str, folder: str | os.PathLike[str]) -> Path:
    """Return what ``engine`` can load of the model at ``path``.

    Where only a saved graph (``graph.json``) or a model of Paddle Inference is there, it is loaded as a graph and
    written for the engine into ``folder``; the functions are equal, the source stays as it is.

    Raises:
        UserError: nothing is at ``path``, or nothing that could be made into what the engine reads.
    """
    source = Path(path)
    try:
        return find_model(source, engine)
    except UserError as error:
        if not _is_graph(source) or (engine not in _READS_ONNX and engine != "paddle"):
            raise error from None
    from paddleseg_slim.graph import export_inference, load

    layer = load(source)
    layer.eval()
    if engine == "paddle":
        return export_inference(layer, Path(folder) / "model")[0]
    return write_model_onnx(layer, Path(folder) / "model.onnx", source)


def _is_graph(path: Path) -> bool:
    """Whether `graph.load` may know what is there."""
    kinds = ("graph.json", "*.pdmodel", "*.pdiparams", "__model__")
    return path.suffix in (".json", ".pdmodel") or (path.is_dir() and any(any(path.glob(kind)) for kind in kinds))


def write_model_onnx(layer: Any, path: Path, source: Path | None = None, **options: Any) -> Path:
    """Write ``layer`` as ONNX with the metadata of the description beside ``source``, if there is one.

    Args:
        layer: a `GraphLayer`.
        path: of the file.
        source: the model's folder, or a file in it.
        options: of `onnx.write_onnx`.
    """
    from paddleseg_slim.deploy.onnx import write_onnx

    write_onnx(layer, path, metadata=metadata_of(source), **options)
    return path


def metadata_of(source: str | os.PathLike[str] | None) -> dict[str, Any]:
    """What the description of a model says (`find_description`), as metadata for an ONNX file; empty without one."""
    from paddleseg_slim.deploy.description import find_description, read_deploy
    from paddleseg_slim.deploy.metadata import onnx_metadata

    description = None if source is None else find_description(source)
    return onnx_metadata(read_deploy(description)[0]) if description else {}


def add_onnx(folder: str | os.PathLike[str], layer: Any, **options: Any) -> Path:
    """Write ``model.onnx`` beside an exported model and name it in its ``deploy.yaml`` or ``inference.yml``.

    Args:
        folder: what `export.export` wrote.
        layer: the graph that was exported (`export.ExportResult.layer`), its output operation included.
        options: of `onnx.write_onnx`: ``opset``, ``input_shape``, ``int32_bias``, ``signed_middle``, ``integer_sizes``.

    Raises:
        UserError: an op has no ONNX function; the folder is left as it was.
    """
    from paddleseg_slim.deploy.description import FILE_NAME, find_description, read_deploy, write_deploy

    description = find_description(folder) or Path(folder) / FILE_NAME
    deploy, place = read_deploy(description)
    path = write_model_onnx(layer, place / "model.onnx", place, **options)
    write_deploy(place, replace(deploy, onnx=path.name), description.name)
    return path
