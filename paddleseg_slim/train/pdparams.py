"""Read the files of ``paddle.save`` (and safetensors) without executing anything that they may carry."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from paddleseg_slim.errors import UserError

NAMES_KEY = "StructuredToParameterName@@"
"""Entry that ``paddle.save`` adds to a state dict: structured name -> name of the parameter in that process."""

_SPLIT_KEY = "UnpackBigParamInfor@@"
_NUMPY_CORE = ("numpy.core", "numpy._core")  # the name before and since NumPy 2

_ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("collections", "OrderedDict"),
    ("_codecs", "encode"),  # how protocol 2 writes bytes
    *(("builtins", name) for name in ("tuple", "list", "dict", "set", "frozenset", "int", "float", "bool", "complex")),
    *((f"{core}.multiarray", name) for core in _NUMPY_CORE for name in ("_reconstruct", "scalar")),
    *((f"{core}.numeric", "_frombuffer") for core in _NUMPY_CORE),
}
"""The only names that a file may refer to: arrays, their dtypes and containers."""


class _Forbidden(pickle.UnpicklingError):
    """The file refers to a name that is not in `_ALLOWED`."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise _Forbidden(f"{module}.{name}")
        return super().find_class(module, name)

    def persistent_load(self, pid: Any) -> Any:
        raise _Forbidden(f"a persistent object {pid!r} (a file of another framework)")


def check_file(path: str | os.PathLike[str], wanted: str = "a .pdparams or .safetensors file") -> Path:
    """Return ``path`` if it is a file with content.

    Raises:
        UserError: it is missing, a folder or empty.
    """
    file = Path(path)
    if file.is_dir():
        inside = sorted(p.name for p in file.glob("*.pdparams"))
        remedy = f"Give {file / inside[0]}." if inside else f"Give {wanted}."
        raise UserError(f"{file} is a folder, not {wanted}.", remedy)
    if not file.is_file():
        raise UserError(f"{file} does not exist.", f"Give {wanted}.")
    if file.stat().st_size == 0:
        raise UserError(f"{file} is empty (0 bytes).", "The copy or download broke off: fetch it again.")
    return file


def read(path: str | os.PathLike[str]) -> Any:
    """Read a file of ``paddle.save``: NumPy arrays and numbers in dicts, lists and tuples.

    Tensors come back as NumPy arrays; bfloat16 as uint16, as ``paddle.save`` stores it.

    Raises:
        UserError: the file is missing, empty, a folder, truncated, of another format, or carries anything else
            than arrays (the global that it refers to is named).
    """
    file = check_file(path)
    with open(file, "rb") as stream:
        content = _unpickle(stream, file)
    return _without_names(content)


def _unpickle(stream: BinaryIO, file: Path) -> Any:
    try:
        return _Unpickler(stream, encoding="latin1").load()
    except _Forbidden as error:
        raise UserError(
            f"{file} is refused: it would load {error}, and a checkpoint holds arrays only.",
            "Do not open this file with paddle.load or pickle unless you trust its origin.",
        ) from None
    except Exception as error:  # a damaged pickle can fail with any exception at all
        raise UserError(
            f"{file} is not a complete file of paddle.save ({type(error).__name__}: {_short(error)}).",
            "It is truncated, damaged or of another format (an inference file .pdiparams has its model beside it).",
        ) from error


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:120]


def _without_names(value: Any) -> Any:
    """Replace the pairs (name, array), in which ``paddle.save`` keeps a tensor outside a state dict, by the array."""
    if isinstance(value, dict):
        return {key: _without_names(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_names(item) for item in value]
    if isinstance(value, tuple):
        if len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], np.ndarray):
            return value[1]
        return tuple(_without_names(item) for item in value)
    return value


def read_arrays(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read the tensors of a checkpoint, ``.pdparams`` or ``.safetensors``, by name.

    A wrapper around them (``state_dict``, ``model``, ``ema``, ...) and a prefix that all names share
    (``module.``, ``_layers.``) are taken off.

    Raises:
        UserError: as `read`, or the file holds no tensors by name.
    """
    file = check_file(path)
    content = _read_safetensors(file) if file.suffix == ".safetensors" else read(file)
    arrays, wrapper = _unwrap(content)
    if not arrays:
        what = f"a {type(content).__name__}" + (f" with the keys {_some(content)}" if isinstance(content, dict) else "")
        raise UserError(f"{file} holds no tensors by name: it is {what}{wrapper}.", "Give a model's state dict.")
    if _SPLIT_KEY in arrays or (isinstance(content, dict) and _SPLIT_KEY in content):
        raise UserError(
            f"{file} was saved in pieces (pickle protocol below 4).", "Save it again with paddle.save(protocol=4)."
        )
    return _without_prefix(arrays)


def _read_safetensors(file: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return dict(load_file(file))
    except (SafetensorError, ValueError, OSError, KeyError, TypeError) as error:
        raise UserError(
            f"{file} is not a complete safetensors file ({_short(error)}).",
            "It is truncated or damaged.",
        ) from error


_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "params", "weights", "ema", "ema_state_dict")


def _unwrap(content: Any) -> tuple[dict[str, np.ndarray], str]:
    """The arrays by name, and a phrase on the wrapper in which none were found."""
    if not isinstance(content, dict):
        return {}, ""
    arrays = {str(key): value for key, value in content.items() if isinstance(value, np.ndarray)}
    if arrays:
        return arrays, ""
    inside = [name for name in _WRAPPERS if isinstance(content.get(name), dict)]
    if inside:
        return _unwrap(content[inside[0]])[0], f" (looked inside {inside[0]!r})"
    return {}, ""


def _without_prefix(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    for prefix in ("module.", "_layers.", "ema."):
        if all(name.startswith(prefix) for name in arrays):
            return _without_prefix({name[len(prefix) :]: value for name, value in arrays.items()})
    return arrays


def _some(names: Any, count: int = 5) -> str:
    listed = [str(name) for name in list(names)[:count]]
    return ", ".join(listed) + (", ..." if len(names) > count else "")
