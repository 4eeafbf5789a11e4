"""Say what this machine and environment have."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

import psutil

from paddleseg_slim.errors import UserError
from paddleseg_slim.version import __version__

HELP = "show versions, CPU features, devices and engines"

_PACKAGES = (
    ("paddlepaddle", "paddlepaddle-gpu"),
    ("numpy",),
    ("opencv-python-headless", "opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless"),
    ("onnx",),
    ("onnxruntime", "onnxruntime-gpu"),
    ("openvino",),
    ("tensorrt", "tensorrt-cu12", "tensorrt-cu11"),
    ("visualdl",),
    ("paddleseg",),
)
"""Distributions to look for; those of one tuple stand in for each other."""

_INT8 = {
    "avx512_vnni": "int8 dot products (profiles cpu-vnni, openvino-vnni)",
    "avx_vnni": "int8 dot products (profiles cpu-vnni, openvino-vnni)",
    "amx_int8": "int8 tiles",
    "asimddp": "int8 dot products (ARM)",
}
"""CPU flags that decide how fast int8 runs, and what they mean."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``--json``."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print what was found; 2 if Paddle is missing or unsupported."""
    found = environment()
    if args.json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
    else:
        width = max(len(key) for key in found)
        for key, value in found.items():
            text = value if isinstance(value, str) else ", ".join(map(str, value))
            sys.stdout.write(f"{key:<{width}}  {text or '-'}\n")
    problem = found["paddle problem"]
    if problem:
        raise UserError(problem, "pip install 'paddlepaddle>=3.1.1,<3.4' (paddlepaddle-gpu for a GPU).")
    return 0


def environment() -> dict[str, Any]:
    """Versions, CPU, memory, devices and engines, by what they are called."""
    from paddleseg_slim.deploy.runtimes.machine import describe_machine

    machine = describe_machine()
    flags = machine["cpu_flags"]
    cores = f"{machine['physical_cores']} physical, {machine['logical_cores']} logical cores"
    found: dict[str, Any] = {
        "paddleseg_slim": __version__,
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": platform.platform(),
        "cpu": f"{machine['cpu']}, {cores}",
        "int8 on this cpu": [f"{flag}: {text}" for flag, text in _INT8.items() if flag in flags]
        or ["pairs that saturate at 16 bits: use 7-bit weights (profile cpu)" if "avx2" in flags else "unknown"],
        "memory": f"{psutil.virtual_memory().available / 1e9:.1f} of {machine['memory_gb']} GB free",
        "free disk": f"{shutil.disk_usage(Path.cwd()).free / 1e9:.1f} GB in {Path.cwd()}",
    }
    for names in _PACKAGES:
        found[names[0]] = next((f"{version(n)} ({n})" for n in names if version(n)), "not installed")
    return {**found, **_paddle(), **_engines()}


def version(distribution: str) -> str | None:
    """Version of an installed distribution."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _paddle() -> dict[str, Any]:
    try:
        from paddleseg_slim import compat  # noqa: F401  (refuses a missing or unsupported Paddle)
    except UserError as error:
        return {"paddle problem": error.cause}
    from paddleseg_slim.deploy.runtimes.machine import physical_cores
    from paddleseg_slim.train import device

    return {
        "paddle problem": "",
        "devices of paddle": device.available(),
        "threads by default": str(physical_cores()),
    }


def _engines() -> dict[str, Any]:
    """Execution providers of ONNX Runtime and devices of OpenVINO, where they are installed."""
    found: dict[str, Any] = {}
    if importlib.util.find_spec("onnxruntime"):
        import onnxruntime

        found["onnxruntime providers"] = onnxruntime.get_available_providers()
    if importlib.util.find_spec("openvino"):
        import openvino

        found["openvino devices"] = openvino.Core().available_devices
    return found
