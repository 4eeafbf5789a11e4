"""Import of peer packages that the tests compare with."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from typing import Any

import pytest

_ABSENT = ("sklearn", "sklearn.metrics")
"""What paddleseg imports at its top and uses only for AUC; its pins are too old to install them for it."""


def paddleseg(module: str = "paddleseg.models") -> Any:
    """Import a module of the peer ``paddleseg`` (2.8.0, installed without its dependencies), or skip the test.

    Empty modules stand in for the dependencies that are not installed while the import runs, and leave with it.
    """
    if importlib.util.find_spec("paddleseg") is None:
        pytest.skip("paddleseg is not installed: pip install --no-deps paddleseg==2.8.0")
    stand_ins = {} if importlib.util.find_spec("sklearn") else {name: types.ModuleType(name) for name in _ABSENT}
    for name, stand_in in stand_ins.items():
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(stand_ins[parent], child, stand_in)
        sys.modules[name] = stand_in
    try:
        return importlib.import_module(module)
    finally:
        for name in stand_ins:
            del sys.modules[name]


def paddleseg_component(kind: str, name: str) -> Any:
    """Return the class or function that ``paddleseg`` registers as ``name``; kind ``MODELS``, ``BACKBONES``, ..."""
    paddleseg()
    manager = importlib.import_module("paddleseg.cvlibs").manager
    return getattr(manager, kind)[name]
