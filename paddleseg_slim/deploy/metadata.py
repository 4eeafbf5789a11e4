"""What an exported model says of itself, an ONNX file in its metadata: a program needs nothing else to feed it."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from paddleseg_slim.deploy.description import Deploy, find_description, read_deploy

_AS_THEY_ARE = ("task", "transforms", "output_op", "output_dtype", "class_names")
_LISTS = ("transforms", "class_names")


def onnx_metadata(deploy: Deploy) -> dict[str, Any]:
    """Metadata of an ONNX file.

    ``task``, ``transforms``, ``output_op``, ``output_dtype`` and ``class_names`` are as in ``deploy.yaml``. Programs
    without a reader of YAML or JSON find the preprocessing in plain numbers, too, separated by blanks:
    ``preprocess_size``, the width and height that a picture is resized to (bilinear; missing where it keeps its size),
    then ``preprocess_mean`` and ``preprocess_std`` of R, G, B: ``(value / 255 - mean) / std``. Preprocessing that these
    numbers cannot say is named in ``preprocess_other``, and they are missing.
    """
    known = {key: getattr(deploy, key) for key in _AS_THEY_ARE if getattr(deploy, key)}
    return {**known, **plain_preprocessing(deploy.transforms)}


def read_metadata(model: Any) -> dict[str, Any]:
    """What an ``onnx.ModelProto`` that this package wrote says of itself; lists that are no JSON are left out."""
    told: dict[str, Any] = {}
    for item in model.metadata_props:
        try:
            told[item.key] = json.loads(item.value) if item.key in _LISTS else item.value
        except ValueError:  # written by another program, with a meaning of its own
            continue
    return told


def told_by(model: Path) -> dict[str, Any]:
    """What an exported model says of itself: the keys of `onnx_metadata` as plain lists and texts, those that it tells.

    Args:
        model: a file or a folder. The ``deploy.yaml`` or ``inference.yml`` in the folder is read, and the metadata of
            an ONNX file, which count where both say something.

    Raises:
        UserError: that description is malformed.
    """
    description, told = find_description(model), {}
    if description:
        deploy = read_deploy(description)[0]
        told = {key: getattr(deploy, key) for key in _AS_THEY_ARE if key == "transforms" or getattr(deploy, key)}
    if model.suffix == ".onnx" and importlib.util.find_spec("onnx"):  # engines read such files without it
        import onnx

        told |= read_metadata(onnx.load(str(model), load_external_data=False))
    return dict(json.loads(json.dumps(told)))


def plain_preprocessing(transforms: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The keys ``preprocess_*`` of `onnx_metadata`: a Resize, if there is one, then a Normalize, if there is one."""
    names = [str(transform.get("type")) for transform in transforms]
    by_name = dict(zip(names, transforms))
    resize = by_name.get("Resize", {})
    stretched = not resize.get("keep_ratio") and not resize.get("size_divisor")
    if names not in ([], ["Resize"], ["Normalize"], ["Resize", "Normalize"]) or not stretched:
        return {"preprocess_other": " ".join(names)}
    if resize.get("interp", "LINEAR") != "LINEAR":
        return {"preprocess_other": " ".join(names)}
    normalize = by_name.get("Normalize", {"mean": [0.0], "std": [1 / 255]})
    result = {f"preprocess_{key}": _three(normalize.get(key, [0.5])) for key in ("mean", "std")}
    if resize:
        width, height = resize.get("target_size", (512, 512))
        result["preprocess_size"] = f"{width} {height}"
    return result


def _three(numbers: Sequence[float]) -> str:
    return " ".join(repr(float(number)) for number in (list(numbers) * 3 if len(numbers) == 1 else numbers))
