"""What pruning removed, in a file of the run: the stages of the model as cut and as trained again tell it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from paddleseg_slim.cli import runner
from paddleseg_slim.cli.prune_folder import PICTURE
from paddleseg_slim.files import write_json
from paddleseg_slim.prune.curves import Curves
from paddleseg_slim.prune.curves_picture import caption, draw
from paddleseg_slim.prune.plan import Pruned

FILE_NAME = "removed.json"
"""In the folder of the pruned model."""


def write(folder: Path, pruned: Pruned, curves: Curves) -> None:
    """Write the file, and mark what went in the picture of the curves, which is in the folder above."""
    told = {**asdict(pruned.account), "pictures": {}}
    if curves.mode != "ranking":
        draw(curves, folder.parent / PICTURE, pruned.widths)
        told["pictures"] = {PICTURE: caption(curves)}
    write_json(folder / FILE_NAME, told)


def facts(folder: Path, up: str = "") -> dict[str, Any]:
    """Fields of a stage, as `write` left them; none where zeros were made.

    They are left out, and the log says so, where the file is damaged.

    Args:
        folder: of the pruned model.
        up: path from the stage's folder to the one above ``folder``.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        return {}
    try:
        told = dict(json.loads(path.read_text(encoding="utf-8")))
        return {**told, "pictures": {up + name: text for name, text in told["pictures"].items()}}
    except (ValueError, TypeError, KeyError) as error:
        runner.log("%s is damaged, the report does not say what was removed: %s", path, error)
        return {}
