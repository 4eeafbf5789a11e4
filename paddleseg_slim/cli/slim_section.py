"""``--slim_config`` of ``train``, ``val``, ``predict`` and ``export``: compress by a second file, use what came out."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paddleseg_slim.errors import UserError

if TYPE_CHECKING:
    from paddleseg_slim.config.slim import SlimSection

_VERBS = {"Pruner": "prune", "UnstructuredPruner": "sparsify", "QAT": "qat", "PTQ": "ptq", "Distill": "distil"}
_PASSED = (
    *("batch_size", "learning_rate", "save_interval", "keep_checkpoint_max", "log_iters", "num_workers", "seed"),
    *("use_vdl", "device", "threads", "overwrite", "opts", "do_eval", "skip_bad", "reset_head"),
    "eval_engine",
)
"""Flags of ``train`` that are given on to the compression command where it has them."""

_ITERS = ("retraining_iters", "iters")
_MODEL_PATHS = ("model_path", "teacher_model_path")


def add(parser: argparse.ArgumentParser) -> None:
    """``--slim_config``."""
    text = "compression, as PaddleDetection's: Pruner, UnstructuredPruner, QAT, PTQ or Distill"
    parser.add_argument("--slim_config", metavar="FILE", help=text)


def of_config(args: argparse.Namespace) -> SlimSection | None:
    """The section of ``--slim_config``, else the one in the model's config; None where there is neither."""
    from paddleseg_slim.config import load_config
    from paddleseg_slim.config.slim import parse_slim, read_slim

    if args.slim_config:
        return read_slim(args.slim_config)
    section = load_config(args.config, args.opts).slim
    return parse_slim(section, Path(args.config).stem, "slim") if "method" in section else None


def train(args: argparse.Namespace, section: SlimSection) -> int:
    """Compress as the section says, with the command that does it; results go to ``<save_dir>/<name>``.

    Raises:
        UserError: the command has no such option, or weights are missing.
    """
    from paddleseg_slim.chain import verbs

    verb = verbs.VERBS[_VERBS[section.method]]
    parser = verbs.parser_of(verb)
    common: dict[str, Any] = {name: getattr(args, name) for name in _PASSED if getattr(args, name, None)}
    options = dict(section.options)
    name = next((name for name in _ITERS if verbs.has_option(parser, name)), None)
    if name is not None and args.iters:
        options[name] = args.iters
    weights = section.weights
    if section.method == "Distill" and weights:
        options.setdefault("teacher_model_path", weights)
        weights = ""
    if args.resume_model and verbs.has_option(parser, "resume_model"):
        options["resume_model"] = args.resume_model
    elif args.resume_model:
        options["resume"] = True
    values = {"config": args.config, "model": args.model_path or weights, "folder": str(folder_of(args, section))}
    where = args.slim_config or args.config
    argv = verbs.command_line(verb, options, values, common, where)
    parsed = verbs.check(verb, argv, where)
    return int(importlib.import_module(f"paddleseg_slim.cli.{verb.command}").run(parsed))


def folder_of(args: argparse.Namespace, section: SlimSection) -> Path:
    """Folder of the run that the section makes: ``<save_dir>/<name>``."""
    return Path(args.save_dir) / section.name


def find_model(args: argparse.Namespace, runs: str = "output") -> str | None:
    """``--model_path``; without it the compressed model that ``train.py --slim_config`` left in ``output/<name>``.

    Raises:
        UserError: nothing is there.
    """
    if args.model_path or not args.slim_config:
        return args.model_path
    from paddleseg_slim.config.slim import read_slim

    folder = Path(runs) / read_slim(args.slim_config).name / "graph"
    if not (folder / "graph.json").is_file():
        raise UserError(
            f"{folder} holds no compressed model.", "Run train.py --slim_config first, or give --model_path."
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
