"""What is on disk of a chain: ``state.json`` says which steps are done, of what, and what they left."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from paddleseg_slim.config.signature import check_arguments
from paddleseg_slim.errors import UserError
from paddleseg_slim.files import sha256, write_json

FILE_NAME = "state.json"
_VERSION = 1
_MODEL_SUFFIXES = (".pdparams", ".pdiparams", ".onnx", ".safetensors", ".pdmodel")
_MODEL_FILES = ("graph.json", "model.json", "inference.json", "deploy.yaml", "inference.yml")


@dataclass
class Record:
    """What is known of one step.

    Attributes:
        status: ``running`` (or killed meanwhile) or ``done``.
        made_of: all that its result depends on, by name; see `runner`.
        files: hashes of the model files in its folder, by relative path.
        seconds: time it took, over all its runs.
        command: the command line.
        process: ``[pid, start time]`` of the process that runs or ran it.
    """

    status: str
    made_of: dict[str, Any]
    files: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    command: list[str] = field(default_factory=list)
    process: list[float] = field(default_factory=list)

    @property
    def digest(self) -> str:
        """Hash of the files."""
        return hashlib.sha256(json.dumps(self.files, sort_keys=True).encode()).hexdigest()[:16]


@dataclass
class State:
    """The records of a run by step, and the configs that they refer to by hash."""

    folder: Path
    steps: dict[str, Record] = field(default_factory=dict)
    configs: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> State:
        """Read the state in ``folder``; an empty one where there is none.

        Raises:
            UserError: the file cannot be read.
        """
        path = folder / FILE_NAME
        if not path.is_file():
            return cls(folder)
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{path} is not JSON ({error}).", "Begin anew with --overwrite.") from error
        if not isinstance(data, Mapping) or data.get("version") != _VERSION:
            raise UserError(f"{path} is not of this version of the package.", "Begin anew with --overwrite.")
        steps = {
            name: Record(**check_arguments(Record, record, f"{path}: {name}")) for name, record in data["steps"].items()
        }
        return cls(folder, steps, dict(data["configs"]))

    def write(self) -> None:
        """Write the state, whole or not at all."""
        steps = {name: asdict(record) for name, record in self.steps.items()}
        write_json(self.folder / FILE_NAME, {"version": _VERSION, "steps": steps, "configs": self.configs})


def outputs(folder: Path) -> dict[str, str]:
    """Hashes of what a step left for others: its model files, but no checkpoints on the way (``iter_N``)."""
    found = {}
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        hidden = any(part.startswith((".", "iter_")) for part in parts[:-1]) or parts[-1].startswith(".")
        if not hidden and path.is_file() and (path.suffix in _MODEL_SUFFIXES or path.name in _MODEL_FILES):
            found[path.relative_to(folder).as_posix()] = sha256(path)
    if not any(name.endswith(_MODEL_SUFFIXES) for name in found):  # a training that evaluated nothing
        found.update({p.relative_to(folder).as_posix(): sha256(p) for p in _last_checkpoint(folder)})
    return found


def _last_checkpoint(folder: Path) -> list[Path]:
    steps = {int(path.parent.name[5:]): path for path in folder.glob("iter_*/model.pdparams")}
    return [steps[max(steps)]] if steps else []


def digest_of(path: Path) -> str:
    """Hash of a model that a chain begins with: a file, or a folder."""
    if path.is_file():
        return sha256(path)[:16]
    return hashlib.sha256(json.dumps(outputs(path), sort_keys=True).encode()).hexdigest()[:16]


def config_digest(raw: Mapping[str, Any]) -> str:
    """Hash of a resolved config."""
    return hashlib.sha256(json.dumps(raw, sort_keys=True, default=str).encode()).hexdigest()[:16]


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """The leaves of nested mappings and lists by key path."""
    if isinstance(value, Mapping) and value:
        items = [(f"{path}.{key}" if path else str(key), item) for key, item in value.items()]
    elif isinstance(value, list) and any(isinstance(item, (Mapping, list)) for item in value):
        items = [(f"{path}.{index}", item) for index, item in enumerate(value)]
    else:
        return {path: value}
    return {key: leaf for name, item in items for key, leaf in leaves(item, name).items()}


def differences(new: Mapping[str, Any], old: Mapping[str, Any]) -> list[str]:
    """What differs between two mappings, a line a key path: ``pruning_ratio is 0.5, was 0.3``."""
    after, before = leaves(new), leaves(old)
    names = [*after, *(name for name in before if name not in after)]
    return [
        f"{name} is {after.get(name, 'absent')}, was {before.get(name, 'absent')}"
        for name in names
        if name not in before or name not in after or after[name] != before[name]
    ]
