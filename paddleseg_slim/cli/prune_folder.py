"""The folder of a pruning run: whose run it holds, what of it may change, and what a new run replaces."""

from __future__ import annotations

import argparse
import json
import shutil
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from paddleseg_slim.cli.arguments import visible
from paddleseg_slim.config import Config
from paddleseg_slim.errors import UserError
from paddleseg_slim.files import write_json

SETTINGS = "prune.json"
DENSE, PRUNED = "dense", "pruned"
"""Folders of the models before the result."""

RETRAINING, SPARSE_TRAINING = "retraining", "sparse_training"
PICTURE = "sensitivities.png"

OWNED = (
    SETTINGS,
    DENSE,
    PRUNED,
    RETRAINING,
    SPARSE_TRAINING,
    "graph",
    "samples",
    "sensitivit*",
    "stage.json",
    "benchmark.*",
    "report.html",
    "report.md",
    "model.*",
    "deploy.yaml",
)
"""What a run leaves in its folder."""

_NOT_COMPARED = {
    "resume",
    "overwrite",
    "debug",
    "save_dir",
    "threads",
    "log_iters",
    "num_workers",
    "use_vdl",
    "no_bench",
    "eval_engine",
}
_GOAL = ("pruning_ratio", "target_params", "target_latency", "max_drop", "engine", "align", "keep", "limit")
"""Flags that may change until the model is pruned."""

_ANEW = "Give --overwrite without --resume to start anew, or another --save_dir."


def made_with(folder: Path) -> dict[str, str]:
    """``sensitivity`` and ``criterion`` of the run in a folder; nothing if it cannot be read (`RunFolder` says why)."""
    try:
        flags = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))["flags"]
        return {name: str(flags[name]) for name in ("sensitivity", "criterion")}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def owned_part(folder: Path, path: Path) -> str | None:
    """The entry of `OWNED` in ``folder`` that ``path`` is, or is in; None if a new run leaves it alone."""
    try:
        first = path.resolve().relative_to(folder.resolve()).parts[0]
    except (ValueError, IndexError):
        return None
    return first if any(fnmatch(first, pattern) for pattern in OWNED) else None


class RunFolder:
    """The folder of this run.

    Args:
        path: of the folder.
        args: the flags.
        config: of the run.

    Raises:
        UserError: a run is to be resumed, and it is one with other settings, damaged, or none.
    """

    def __init__(self, path: Path, args: argparse.Namespace, config: Config) -> None:
        self.path, self._args = path, args
        self._settings = {
            "flags": {k: v for k, v in sorted(vars(args).items()) if k not in _NOT_COMPARED},
            "config": config.to_dict(),
        }
        self._resumes = bool(args.resume and visible(path))
        if self._resumes:
            self._refuse_another(config)

    @property
    def has_pruned(self) -> bool:
        """Whether the run is resumed and its model has been pruned."""
        return self._resumes and (self.path / PRUNED / "graph" / "graph.json").is_file()

    def begin(self) -> None:
        """Forget what an earlier run left, unless it is resumed, and keep the settings."""
        given = Path(self._args.sensitivity_file).resolve() if self._args.sensitivity_file else None
        for pattern in () if self._resumes else OWNED:
            for entry in self.path.glob(pattern):
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                elif entry.resolve() != given:
                    entry.unlink()
        write_json(self.path / SETTINGS, self._settings)

    def _refuse_another(self, config: Config) -> None:
        before, free = self._read(), () if self.has_pruned else _GOAL
        differ = [
            f"--{name}: {value}, was {before['flags'].get(name)}"
            for name, value in self._settings["flags"].items()
            if value != before["flags"].get(name) and name not in free
        ]
        differ += config.differences(before["config"])
        if differ:
            raise UserError(
                f"{self.path} belongs to a run with other settings: {'; '.join(differ[:5])}.",
                "Give the same settings, or another --save_dir.",
            )

    def _read(self) -> dict[str, Any]:
        file = self.path / SETTINGS
        if not file.is_file():
            raise UserError(f"{self.path} holds no run of slim/prune.py: {SETTINGS} is missing.", _ANEW)
        try:
            before = json.loads(file.read_text(encoding="utf-8"))
            return {"flags": dict(before["flags"]), "config": dict(before["config"])}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{file} is damaged: {error}.", _ANEW) from error
