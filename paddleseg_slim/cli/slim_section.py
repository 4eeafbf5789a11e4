"""``--slim_config`` of ``train``, ``val``, ``predict`` and ``export``, and the section ``slim:`` of a model's config.

``train`` compresses as the section says; the others take the model that came out.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from paddleseg_slim.cli import setup
from paddleseg_slim.errors import UserError

if TYPE_CHECKING:
    from paddleseg_slim.config.slim import SlimSection

STEP_NAMES = {
    "Pruner": "pruned",
    "UnstructuredPruner": "sparse",
    "Distill": "distilled",
    "QAT": "quantized",
    "PTQ": "quantized",
}
"""Method -> folder of its result where several are done in a row."""

_RECORDED = {
    "Pruner": "prune",
    "UnstructuredPruner": "sparsify",
    "Distill": "distill",
    "QAT": "quantize",
    "PTQ": "quantize",
}
"""Method -> step in the compression record of a model."""


def add(parser: argparse.ArgumentParser) -> None:
    """``--slim_config``."""
    text = "compression, as PaddleDetection's: Pruner, UnstructuredPruner, QAT, PTQ, Distill, DistillPrune, PrunerQAT"
    parser.add_argument("--slim_config", metavar="FILE", help=text)


def of_config(args: argparse.Namespace) -> SlimSection | None:
    """The section of ``--slim_config``, else the one in the model's config; None where there is neither."""
    from paddleseg_slim.config import load_config
    from paddleseg_slim.config.slim import parse_slim, read_slim

    if args.slim_config:
        return read_slim(args.slim_config)
    section = load_config(args.config, args.opts).slim
    return parse_slim(section, Path(args.config).stem, "slim") if "method" in section else None


def find_model(args: argparse.Namespace, runs: str = "output") -> str | None:
    """``--model_path``; without it the compressed model that ``train.py`` left in ``output/<name of the section>``.

    Raises:
        UserError: nothing is there, or the model of ``--model_path`` is not what ``--slim_config`` says.
    """
    section = of_config(args)
    if args.model_path and args.slim_config and section is not None:
        _check_record(Path(args.model_path), section)
    if args.model_path or section is None:
        return args.model_path
    run = Path(runs) / section.name
    last = run / STEP_NAMES[section.steps[-1].method]
    folder = next((place / "graph" for place in (last, run) if (place / "graph" / "graph.json").is_file()), None)
    if folder is None:
        raise UserError(
            f"{run} holds no compressed model.",
            "Run train.py with the same --slim_config or config first, or give --model_path.",
        )
    return str(folder)


def need_model(args: argparse.Namespace) -> str:
    """`find_model`, for a command that needs one.

    Raises:
        UserError: there is none.
    """
    path = find_model(args)
    if not path:
        raise UserError(
            "No --model_path is given.", "Give trained weights, or the --slim_config of a compressed model."
        )
    return path


def _check_record(path: Path, section: SlimSection) -> None:
    """Refuse a model that was not compressed as the section says.

    Raises:
        UserError: it is a file of weights, or a method is missing in its record.
    """
    methods = [step.method for step in section.steps]
    folder = setup.saved_graph(str(path))
    if folder is None:
        raise UserError(
            f"--slim_config says {', '.join(methods)}, but {path} is no compressed model (a folder with graph.json).",
            "Give the folder graph/ that train.py --slim_config wrote, or leave --slim_config out.",
        )
    try:
        record = json.loads((folder / "compression.json").read_text(encoding="utf-8"))["record"]
        done = [str(entry["step"]) for entry in record]
    except (OSError, ValueError, KeyError, TypeError) as error:
        cause = f"{folder / 'compression.json'} is damaged: {type(error).__name__} {error}"
        raise UserError(cause, "Copy or write the model again.") from error
    missing = [method for method in methods if _RECORDED[method] not in done]
    if missing:
        raise UserError(
            f"--slim_config says {', '.join(methods)}, but the record of {path} says {', '.join(done) or 'nothing'}.",
            "Give the model that train.py --slim_config made, or leave --slim_config out.",
        )
