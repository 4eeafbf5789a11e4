"""Inference engines behind one interface: ``load(path, engine, options)`` gives a `Runtime`.

An engine is imported only when it is asked for; one that is not installed is a `UserError` that says how to install
it, before any work.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

from paddleseg_slim.deploy.runtimes.base import (
    DEVICES,
    PRECISIONS,
    NodePrecision,
    NodeTime,
    Runtime,
    RuntimeInfo,
    RuntimeOptions,
    TensorSpec,
)
from paddleseg_slim.errors import UserError, nearest

__all__ = [
    "DEVICES",
    "ENGINES",
    "PRECISIONS",
    "NodePrecision",
    "NodeTime",
    "Runtime",
    "RuntimeInfo",
    "RuntimeOptions",
    "TensorSpec",
    "available_engines",
    "find_model",
    "load",
    "require_engine",
]


@dataclass(frozen=True)
class Engine:
    """One row of the engine table.

    Attributes:
        module: the module of this package that holds the runtime class.
        class_name: the runtime class in it.
        package: the Python package that must be importable.
        install: the command that installs it.
        files: what it reads, in order of preference: a file name (taken first in a folder) or a suffix.
    """

    module: str
    class_name: str
    package: str
    install: str
    files: tuple[str, ...]


_HERE = "paddleseg_slim.deploy.runtimes."
ENGINES: dict[str, Engine] = {
    "paddle": Engine(
        _HERE + "paddle_inference",
        "PaddleRuntime",
        "paddle",
        "pip install 'paddleseg_slim[cpu]' (GPU: see the installation page of PaddlePaddle)",
        ("model.json", "model.pdmodel", "__model__", ".json", ".pdmodel"),
    ),
    "onnxruntime": Engine(
        _HERE + "onnx_runtime",
        "OnnxRuntime",
        "onnxruntime",
        "pip install 'paddleseg_slim[onnx]' (GPU: pip install onnxruntime-gpu onnx)",
        ("model.onnx", ".onnx"),
    ),
    "openvino": Engine(
        _HERE + "openvino_runtime",
        "OpenVinoRuntime",
        "openvino",
        "pip install 'paddleseg_slim[openvino]'",
        ("model.xml", "model.onnx", ".xml", ".onnx"),
    ),
    "tensorrt": Engine(
        _HERE + "tensorrt_runtime",
        "TensorRtRuntime",
        "tensorrt",
        "pip install tensorrt cuda-python, on a machine with an NVIDIA GPU",
        ("model.engine", "model.onnx", ".engine", ".plan", ".onnx"),
    ),
}


def available_engines() -> list[str]:
    """Names of the engines whose package is installed."""
    return [name for name, engine in ENGINES.items() if importlib.util.find_spec(engine.package)]


def require_engine(name: str) -> Engine:
    """Return the row of the engine called ``name``.

    Raises:
        UserError: no engine has this name, or its package is not installed.
    """
    if name not in ENGINES:
        raise UserError(f"Unknown engine {name!r}.", nearest(name, ENGINES))
    engine = ENGINES[name]
    if importlib.util.find_spec(engine.package) is None:
        raise UserError(f"The engine {name} is not installed.", f"Install it: {engine.install}")
    return engine


def find_model(path: str | os.PathLike[str], engine: str) -> Path:
    """Return the model file that ``engine`` reads at ``path``, a file or a folder.

    Raises:
        UserError: nothing is there, or nothing that this engine reads.
    """
    target = Path(path)
    files = ENGINES[engine].files
    readable = ", ".join(name for name in files if not name.startswith("."))
    if not target.exists():
        raise UserError(f"No model at {target}.", f"Give a file or a folder that {engine} reads: {readable}.")
    if target.is_dir():
        for name in files:
            matches = sorted(target.glob("*" + name)) if name.startswith(".") else [target / name]
            found = [match for match in matches if match.is_file() and _is_model(match)]
            if len(found) > 1:
                raise UserError(f"{target} holds {len(found)} files that {engine} could run.", "Name the file itself.")
            if found:
                target = found[0]
                break
        else:
            raise UserError(f"{target} holds nothing that {engine} reads.", f"It reads: {readable}. Export the model.")
    elif not any(target.name.endswith(name) for name in files):
        raise UserError(f"{engine} does not read {target.name}.", f"It reads: {readable}.")
    if target.stat().st_size == 0:
        raise UserError(f"{target} is empty.", "Export the model again.")
    return target


def _is_model(path: Path) -> bool:
    """Whether a ``.json`` has its ``.pdiparams`` beside it (other JSON files lie in the same folder)."""
    return path.suffix != ".json" or path.with_suffix(".pdiparams").exists()


def load(path: str | os.PathLike[str], engine: str, options: RuntimeOptions | None = None) -> Runtime:
    """Load the exported model at ``path`` (a file, or a folder that holds one) with an engine.

    Args:
        path: what to load.
        engine: a name of `ENGINES`.
        options: how to run; the default is the CPU with all physical cores in fp32.

    Raises:
        UserError: engine or file missing, or the engine refuses the file or the options.
    """
    row = require_engine(engine)
    file = find_model(path, engine)
    runtime: type[Runtime] = getattr(importlib.import_module(row.module), row.class_name)
    return runtime(file, options or RuntimeOptions())
