"""``deploy.yaml``: what must travel with an exported model, so that any program can feed it and read it.

The keys ``transforms``, ``model``, ``params``, ``input_shape``, ``output_op`` and ``output_dtype`` are PaddleSeg's;
``num_classes``, ``class_names``, ``task`` and ``onnx`` are ours.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import yaml

from paddleseg_slim.config.signature import check_arguments
from paddleseg_slim.config.yaml_file import read_mapping
from paddleseg_slim.errors import UserError
from paddleseg_slim.files import write_text

FILE_NAME = "deploy.yaml"
FREE_SHAPE = (1, 3, 512, 512)
"""What is run where neither the user nor the model says a length."""

FILE_NAMES = (FILE_NAME, "inference.yml")
"""What a description may be called; the second is FastDeploy's name."""

OUTPUT_OPS = ("argmax", "softmax", "none")


@dataclass(frozen=True)
class Deploy:
    """The section ``Deploy`` of a ``deploy.yaml``.

    Attributes:
        model: file name of the program, beside the ``deploy.yaml``: ``model.json`` (or ``model.pdmodel``).
        params: file name of its weights, ``model.pdiparams``.
        transforms: preprocessing, as in a config's ``val_dataset``; RGB input, 0 ... 255.
        input_shape: ``[N, C, H, W]`` that the model is meant for, -1 where none is: what it is measured with. Other
            lengths run, too, where the inputs of the program leave theirs open.
        output_op: ``argmax`` (class numbers ``[N, H, W]``), ``softmax`` (probabilities) or ``none`` (logits).
        output_dtype: ``int32`` or ``float32``.
        num_classes: number of classes; 0 when not known.
        class_names: their names, in order.
        task: ``segmentation`` or ``classification``.
        onnx: file name of the same model as ONNX, if there is one.
    """

    model: str = ""
    params: str = ""
    transforms: list[dict[str, Any]] = field(default_factory=list)
    input_shape: list[int] = field(default_factory=list)
    output_op: str = "none"
    output_dtype: str = "float32"
    num_classes: int = 0
    class_names: list[str] = field(default_factory=list)
    task: str = "segmentation"
    onnx: str = ""

    def __post_init__(self) -> None:
        if self.output_op not in OUTPUT_OPS:
            raise UserError(f"output_op is {self.output_op!r}.", f"It must be one of {', '.join(OUTPUT_OPS)}.")


def write_deploy(folder: str | Path, deploy: Deploy, name: str = FILE_NAME) -> Path:
    """Write ``deploy.yaml`` beside the model it describes.

    Raises:
        FileNotFoundError: a file that it names is not there, so nobody could use it.
    """
    path = Path(folder) / name
    for file in filter(None, (deploy.model, deploy.params, deploy.onnx)):
        if not (path.parent / file).is_file():
            raise FileNotFoundError(f"{path} would name {file}, which is not there")
    section = {key: value for key, value in asdict(deploy).items() if value not in ("", [], 0)}
    write_text(path, yaml.safe_dump({"Deploy": section}, sort_keys=False, allow_unicode=True))
    return path


def find_description(model: str | os.PathLike[str]) -> Path | None:
    """The description of an exported model, by whichever of `FILE_NAMES`; None without one.

    Args:
        model: its folder, or a file in it.
    """
    folder = Path(model) if Path(model).is_dir() else Path(model).parent
    return next((folder / name for name in FILE_NAMES if (folder / name).is_file()), None)


def default_shape(source: str | os.PathLike[str], file: Path | None = None) -> tuple[int, ...]:
    """The shape of one run of an exported model where nobody asks for another.

    Args:
        source: the model, a file or a folder, with or without a description.
        file: it, or what was made of it, as ONNX; lengths that it leaves open are those of the description, else of
            `FREE_SHAPE`.

    Raises:
        UserError: the file is no ONNX model, or the description is malformed.
    """
    from paddleseg_slim.deploy.onnx_cost import input_sides

    own = input_sides(file) if file is not None else []
    description = find_description(source)
    described = read_deploy(description)[0].input_shape if description else []
    rank = len(own) or len(FREE_SHAPE)
    sides = zip_longest(own, described[:rank], FREE_SHAPE[:rank], fillvalue=-1)
    return tuple(next((side for side in choices if side > 0), 1) for choices in sides)


def read_deploy(path: str | Path) -> tuple[Deploy, Path]:
    """Read a ``deploy.yaml`` (or the one in a folder), ours or PaddleSeg's; also return the folder of its files.

    Raises:
        UserError: it is missing or malformed, or names a model file that is not there.
    """
    file = Path(path)
    if file.is_dir():
        file = find_description(file) or file / FILE_NAME
    section = read_mapping(file).get("Deploy")
    if not isinstance(section, dict):
        raise UserError(f"{file} has no section Deploy.", "Give the deploy.yaml that export.py wrote.")
    if "output_op" not in section:  # PaddleSeg before 2.8 always exported class numbers
        section = {"output_op": "argmax" if section.get("output_dtype", "int32") != "float32" else "none", **section}
    output_op = section["output_op"] or "none"
    if "input_shape" in section:
        section["input_shape"] = [-1 if side is None else side for side in section["input_shape"] or []]
    deploy = Deploy(**check_arguments(Deploy, {**section, "output_op": output_op}, f"{file}: Deploy"))
    for name in filter(None, (deploy.model, deploy.params)):
        if not (file.parent / name).is_file():
            raise UserError(f"{file} names {name}, which is not in {file.parent}.", "Export the model again.")
    return deploy, file.parent
