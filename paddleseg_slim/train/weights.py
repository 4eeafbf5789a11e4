"""Give a model the weights of a file, and refuse a file that is not this model's."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import paddle

from paddleseg_slim.errors import UserError
from paddleseg_slim.train.pdparams import read_arrays

_LOG = logging.getLogger(__name__)
_EXAMPLES = 3


@dataclass(frozen=True)
class LoadReport:
    """What `load_weights` did.

    Attributes:
        path: the file.
        matched: tensors of the model that were found with their shape.
        total: tensors of the model.
        missing: tensors of the model that the file lacks.
        unused: tensors of the file that the model lacks.
        reset: tensors left at their initial values because their shape differs (``reset_head``).
    """

    path: str
    matched: int
    total: int
    missing: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    reset: tuple[str, ...] = ()

    def line(self) -> str:
        """The report in one line."""
        parts = [f"{self.matched}/{self.total} tensors loaded from {self.path}"]
        for word, names in (("missing", self.missing), ("unused", self.unused), ("left as initialised", self.reset)):
            if names:
                parts.append(f"{word}: {_some(names)}")
        return "; ".join(parts)


def load_weights(
    model: paddle.nn.Layer, path: str | os.PathLike[str], *, min_match: float = 0.99, reset_head: bool | None = None
) -> LoadReport:
    """Load ``.pdparams`` or ``.safetensors`` into ``model``; nothing is changed unless the file fits.

    Args:
        model: any Layer; matched by structured names.
        path: a file, or the URL or archive of one.
        min_match: share of the model's tensors that the file must have.
        reset_head: leave the tensors whose number of classes differs at their initial values; False names the flag
            ``--reset-head`` in the error, None does not.

    Raises:
        UserError: the file cannot be read (see `pdparams`), belongs to another architecture, has another number of
            classes, or holds NaN or infinite numbers.
    """
    arrays = read_arrays(_local(path))
    report, fitting = match(model, arrays, str(path), min_match=min_match, reset_head=reset_head)
    model.set_state_dict({**model.state_dict(), **fitting})  # all of it, or Paddle warns of each that is not there
    log = _LOG.warning if report.missing or report.reset else _LOG.info
    log(report.line())
    return report


def _local(path: str | os.PathLike[str]) -> str | os.PathLike[str]:
    text = str(path)
    if "://" not in text and not text.endswith((".tar", ".tar.gz", ".tgz", ".zip")):
        return path
    from paddleseg_slim.data.download import fetch_weights  # only a download needs it

    return fetch_weights(text)


def match(
    model: paddle.nn.Layer,
    arrays: Mapping[str, np.ndarray],
    source: str,
    *,
    min_match: float = 0.99,
    reset_head: bool | None = None,
) -> tuple[LoadReport, dict[str, np.ndarray]]:
    """Compare the tensors of a file with those of a model; the report, and the arrays to load, in the model's types.

    Raises:
        UserError: see `load_weights`.
    """
    wanted = model.state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in wanted.items()}
    found = [name for name in shapes if name in arrays]
    other = {name: (tuple(arrays[name].shape), shapes[name]) for name in found if arrays[name].shape != shapes[name]}
    same = [name for name in found if name not in other]
    missing = tuple(name for name in shapes if name not in arrays)
    unused = tuple(name for name in arrays if name not in shapes)
    counted = f"{len(same)}/{len(shapes)} tensors match"
    if len(found) < min_match * len(shapes) or not found:
        names = f"; only the model has {_some(missing)}" + (f"; only the file has {_some(unused)}" if unused else "")
        raise UserError(
            f"{source} does not fit the model {type(model).__name__}: {counted}{names}.",
            f"Give weights of {type(model).__name__}, or the config that this file was trained with.",
        )
    if other:
        _check_head(other, len(shapes), source, counted, reset_head)
    fitting = {name: _as_type(arrays[name], wanted[name]) for name in same}
    _check_finite(fitting, source)
    return LoadReport(source, len(same), len(shapes), missing, unused, tuple(other) if reset_head else ()), fitting


def _check_head(
    other: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]],
    total: int,
    source: str,
    counted: str,
    reset_head: bool | None,
) -> None:
    """Refuse tensors of another shape, unless they are the head of another number of classes and may be reset."""
    pairs = Counter(_single_change(ours, theirs) for theirs, ours in other.values())
    pair = next(iter(pairs)) if len(pairs) == 1 and 2 * len(other) < total else None  # more is no head, but a width
    if pair is not None and reset_head:
        return
    name, (theirs, ours) = next(iter(other.items()))
    if pair is not None:
        raise UserError(
            f"{source} has {pair[0]} classes, the model has {pair[1]}: {len(other)} tensors differ "
            f"({name}: {list(theirs)} and {list(ours)}); {counted}.",
            "Give the config that this file was trained with"
            + (", or --reset-head to keep all but the head." if reset_head is False else "."),
        )
    raise UserError(
        f"{source} has {len(other)} tensors of other shapes ({name}: {list(theirs)}, in the model {list(ours)}); "
        f"{counted}.",
        "Give the config that this file was trained with; a pruned model is given by its folder graph/.",
    )


def _single_change(ours: tuple[int, ...], theirs: tuple[int, ...]) -> tuple[int, int] | None:
    """The two sizes of the only axis in which two shapes differ; None if it is not one axis alone."""
    if len(ours) != len(theirs):
        return None
    changed = [(b, a) for a, b in zip(ours, theirs) if a != b]
    return changed[0] if len(changed) == 1 else None


def _as_type(array: np.ndarray, tensor: paddle.Tensor) -> np.ndarray:
    """Convert to the dtype of ``tensor``; uint16 for a float is bfloat16, as ``paddle.save`` stores it."""
    dtype = str(tensor.dtype).split(".")[-1]
    if array.dtype == np.uint16 and dtype.startswith("float"):
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return array if dtype == "bfloat16" else array.astype(dtype, copy=False)


def _check_finite(arrays: Mapping[str, np.ndarray], source: str) -> None:
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise UserError(f"{source}: {name} has NaN or infinite values.", "Its training diverged: use another.")


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:_EXAMPLES]) + (f", ... ({len(names)})" if len(names) > _EXAMPLES else "")
