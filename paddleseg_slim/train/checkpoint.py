"""Checkpoints: PaddleSeg's files, a manifest beside them, whole or absent, and resuming from them bit by bit.

``<run>/iter_N/`` holds ``model.pdparams``, ``model.pdopt``, ``model.pdstates`` as PaddleSeg writes them and
``manifest.json``: the hash of every file, and what a resumed run must know or share (step, best result, config).
Randomness needs no state of its own: data and noise of a step are functions of (seed, step).
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from paddleseg_slim.errors import TrainingDiverged, UserError
from paddleseg_slim.files import atomic_folder, recover_folder, sha256, write_json
from paddleseg_slim.train import pdparams
from paddleseg_slim.train.weights import LoadReport, load_weights, match

__all__ = [
    "Checkpoint",
    "LoadReport",
    "Manifest",
    "find_resume",
    "load_weights",
    "read_extra",
    "restore",
    "write_best",
    "write_checkpoint",
]

_LOG = logging.getLogger(__name__)
_FORMAT = 1
_MANIFEST = "manifest.json"
_BEST = ("best_model", "ema_best_model")
_PARAMETERS, _OPTIMIZER, _STATES = "model.pdparams", "model.pdopt", "model.pdstates"


@dataclass
class Manifest:
    """What stands in ``manifest.json``.

    Attributes:
        iter: steps done.
        epoch: passes over the data begun, from 1.
        metrics: result of the evaluation at this step; empty without one.
        best: the best result so far: ``score``, ``iter`` and ``intervals`` since then; the same for ``ema``.
        config: the resolved config of the run.
        settings: what else a resumed run must share (seed, batch size, number of samples, ...).
        fingerprint: hash of the config.
        threads: CPU threads of Paddle; sums are the same to the last digit only with the same number.
        versions: of Paddle, NumPy, this package and Python.
        files: SHA-256 of every file beside the manifest.
        format: version of this format.
    """

    iter: int
    epoch: int = 1
    metrics: dict[str, float] = field(default_factory=dict)
    best: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    fingerprint: str = ""
    threads: int = 1
    versions: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    format: int = _FORMAT


@dataclass(frozen=True)
class Checkpoint:
    """A folder ``iter_N`` that was found whole; ``manifest`` is None for one that PaddleSeg wrote."""

    folder: Path
    manifest: Manifest | None

    @property
    def iter(self) -> int:
        """Steps done."""
        return self.manifest.iter if self.manifest else _step_of(self.folder)


def _step_of(folder: Path) -> int:
    found = re.fullmatch(r"iter_(\d+)", folder.name)
    if not found:
        raise UserError(f"{folder} is not a checkpoint: its name is not iter_N.", "Give a folder iter_N or the run's.")
    return int(found.group(1))


def state_to_save(model: paddle.nn.Layer) -> dict[str, Any]:
    """The state dict of ``model``.

    Raises:
        TrainingDiverged: it has NaN or infinite numbers.
    """
    state = model.state_dict()
    for name, tensor in state.items():
        if paddle.is_floating_point(tensor) and not np.isfinite(tensor.astype("float32").numpy()).all():
            raise TrainingDiverged(
                f"{name} has NaN or infinite values; it is not saved.",
                "Lower the learning rate or clip gradients; the checkpoints before are whole.",
            )
    return dict(state)


def write_checkpoint(
    run: Path,
    model: paddle.nn.Layer,
    optimizer: Any,
    manifest: Manifest,
    *,
    extra: Mapping[str, Any] | None = None,
    keep: int = 5,
    on_save: Callable[[Path], None] | None = None,
) -> Path:
    """Write ``run/iter_N`` and remove the oldest ones above ``keep`` (0: keep all).

    Args:
        run: folder of the run.
        model: saved as ``model.pdparams``.
        optimizer: saved with its schedule as ``model.pdopt``.
        manifest: what to write beside; its ``files`` are filled in.
        extra: further file names and what ``paddle.save`` writes into them.
        keep: how many checkpoints stay.
        on_save: writes further files into the folder that it is given.

    Raises:
        TrainingDiverged: see `state_to_save`.
    """
    state = state_to_save(model)
    folder = run / f"iter_{manifest.iter}"
    with atomic_folder(folder) as temporary:
        paddle.save(state, str(temporary / _PARAMETERS))
        paddle.save(optimizer.state_dict(), str(temporary / _OPTIMIZER))
        paddle.save({**manifest.metrics, "iter": manifest.iter}, str(temporary / _STATES))
        for name, content in (extra or {}).items():
            paddle.save(content, str(temporary / name))
        if on_save is not None:
            on_save(temporary)
        _write_manifest(temporary, manifest)
    _remove_oldest(run, keep)
    return folder


def write_best(run: Path, name: str, file: str, state: Mapping[str, Any], manifest: Manifest) -> Path:
    """Write ``run/<name>/<file>``, the best weights so far, with a manifest."""
    with atomic_folder(run / name) as temporary:
        paddle.save(dict(state), str(temporary / file))
        _write_manifest(temporary, manifest)
    return run / name


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    manifest.files = {name: sha256(folder / name) for name in names}
    write_json(folder / _MANIFEST, asdict(manifest))


def _numbered(run: Path) -> list[Path]:
    folders = [path for path in run.glob("iter_*") if path.is_dir() and re.fullmatch(r"iter_\d+", path.name)]
    return sorted(folders, key=_step_of)


def _remove_oldest(run: Path, keep: int) -> None:
    for folder in _numbered(run)[:-keep] if keep > 0 else []:
        remove_checkpoint(folder)


def remove_checkpoint(folder: Path) -> None:
    """Remove a checkpoint so that a kill leaves it whole or gone."""
    hidden = folder.with_name(f".{folder.name}.removed")
    os.replace(folder, hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def clear_run(run: Path) -> None:
    """Remove what an earlier run left in ``run``: checkpoints, best models, and remains of a killed one."""
    best = [run / name for name in _BEST if (run / name).is_dir()]
    for folder in [*_numbered(run), *best]:
        remove_checkpoint(folder)
    clear_remains(run)


def clear_remains(run: Path) -> None:
    """Bring back a best model whose replacement was killed, and remove half-written folders."""
    for name in _BEST:
        recover_folder(run / name)
    for pattern in (".iter_*", ".best_model.*", ".ema_best_model.*"):
        for path in run.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)


def check_checkpoint(folder: Path) -> Checkpoint:
    """Return the checkpoint in ``folder`` if it is whole.

    Raises:
        UserError: a file is missing or differs from its hash in the manifest, or the manifest cannot be read.
    """
    for name in (_PARAMETERS, _OPTIMIZER):
        if not (folder / name).is_file():
            raise UserError(f"{folder} is not a checkpoint: {name} is missing.", "Give a folder iter_N of a run.")
    if not (folder / _MANIFEST).is_file():
        return Checkpoint(folder, None)
    try:
        content = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        manifest = Manifest(**content)
    except (ValueError, TypeError) as error:
        raise UserError(f"{folder / _MANIFEST} cannot be read ({error}).", "Use an earlier checkpoint.") from None
    if manifest.format > _FORMAT:
        raise UserError(f"{folder} has the newer format {manifest.format}.", "Update paddleseg_slim.")
    for name, digest in manifest.files.items():
        if not (folder / name).is_file() or sha256(folder / name) != digest:
            raise UserError(f"{folder / name} is damaged: it differs from its manifest.", "Use an earlier checkpoint.")
    return Checkpoint(folder, manifest)


def find_resume(path: str | os.PathLike[str]) -> Checkpoint:
    """Find the checkpoint to resume from.

    Args:
        path: a folder ``iter_N``, or the folder of a run: then its latest whole checkpoint is taken.

    Raises:
        UserError: there is none; a damaged ``iter_N`` is refused, and the remedy names the whole one before it.
    """
    folder = Path(os.path.normpath(path))
    if not folder.is_dir():
        raise UserError(f"--resume_model {folder} is not a folder.", "Give a folder iter_N, or the folder of a run.")
    if (folder / _PARAMETERS).exists() or re.fullmatch(r"iter_\d+", folder.name):
        try:
            return check_checkpoint(folder)
        except UserError as error:
            earlier = _latest(folder.parent, below=folder)
            raise UserError(error.cause, f"Use {earlier.folder}." if earlier else error.remedy) from None
    latest = find_latest(folder)
    if latest is None:
        raise UserError(f"{folder} has no whole checkpoint iter_N.", "Start the training anew, without --resume_model.")
    return latest


def find_latest(run: Path) -> Checkpoint | None:
    """The latest whole checkpoint of a run, once half-written folders are gone; None if there is none."""
    clear_remains(run)
    return _latest(run)


def _latest(run: Path, below: Path | None = None) -> Checkpoint | None:
    for folder in reversed(_numbered(run)):
        if below is not None and _step_of(folder) >= _step_of(below):
            continue
        try:
            return check_checkpoint(folder)
        except UserError as error:
            _LOG.warning("%s It is left out.", error.cause)
    return None


def read_extra(checkpoint: Checkpoint, name: str) -> Any:
    """Read a further file of a checkpoint (``ema_model.pdparams``).

    Raises:
        UserError: the run that wrote it had no such file.
    """
    content = pdparams.read(checkpoint.folder / name)
    if isinstance(content, dict):
        content.pop(pdparams.NAMES_KEY, None)
    return content


def restore(checkpoint: Checkpoint, model: paddle.nn.Layer, optimizer: Any) -> None:
    """Give ``model`` and ``optimizer`` (with its schedule) the state of ``checkpoint``.

    Raises:
        UserError: the checkpoint belongs to another model or another optimizer.
    """
    parameters = pdparams.read(checkpoint.folder / _PARAMETERS)
    names = parameters.pop(pdparams.NAMES_KEY, {})
    _, fitting = match(model, parameters, str(checkpoint.folder / _PARAMETERS), min_match=1.0)
    model.set_state_dict(fitting)
    state = pdparams.read(checkpoint.folder / _OPTIMIZER)
    state.pop(pdparams.NAMES_KEY, None)
    renamed = _renamed(state, names, {key: tensor.name for key, tensor in model.state_dict().items()})
    _check_optimizer(renamed, optimizer, model, checkpoint.folder / _OPTIMIZER)
    with warnings.catch_warnings():  # LinearWarmup hands its inner schedule keys that this does not know
        warnings.filterwarnings("ignore", message="There are some unused values in state_dict")
        optimizer.set_state_dict(renamed)


def _renamed(state: Mapping[str, Any], before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, Any]:
    """Translate keys such as ``conv2d_0.w_0_velocity_0``: parameters are numbered by creation in their process."""
    names = {before[key]: now[key] for key in before if key in now}
    longest_first = sorted(names, key=len, reverse=True)
    result = {}
    for key, value in state.items():
        own = next((name for name in longest_first if key.startswith(f"{name}_")), None)
        result[key if own is None else names[own] + key[len(own) :]] = value
    return result


def _check_optimizer(state: Mapping[str, Any], optimizer: Any, model: paddle.nn.Layer, source: Path) -> None:
    """Refuse a state that the optimizer would pass over in silence."""
    slots = [key for key in state if key not in ("LR_Scheduler", "master_weights", "@LR_DECAY_COUNTER@")]
    names = tuple(f"{p.name}_" for p in model.parameters() if not p.stop_gradient)
    strangers = [key for key in slots if not key.startswith(names)]
    if strangers:
        raise UserError(
            f"{source} does not fit: {len(strangers)}/{len(slots)} tensors belong to no parameter ({strangers[0]}).",
            "Resume with the config that the run began with.",
        )
    kind = type(optimizer).__name__
    markers = {"Momentum": "_velocity_", "Adam": "_moment1_", "AdamW": "_moment1_"}
    if kind in markers and slots and not any(markers[kind] in key for key in slots):
        raise UserError(f"{source} was written by another optimizer than {kind}.", "Use the optimizer of the run.")
