"""``train`` with a compression section: the command of its method, or a chain of several methods."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paddleseg_slim.chain import verbs
from paddleseg_slim.chain.recipe import START, Recipe, Step
from paddleseg_slim.cli.slim_section import STEP_NAMES
from paddleseg_slim.errors import UserError

if TYPE_CHECKING:
    from paddleseg_slim.config.slim import SlimSection

VERBS = {"Pruner": "prune", "UnstructuredPruner": "sparsify", "QAT": "qat", "PTQ": "ptq", "Distill": "distil"}
"""Method -> step of a chain."""

_OWN = ("config", "opts", "slim_config", "model_path", "resume_model", "save_dir", "iters", "overwrite", "debug")
"""Flags of ``train`` that are given on under another name, or mean the same for every method."""

_ALWAYS = ("do_eval",)
"""Flags that commands without them honour in any case."""

_ITERS = ("retraining_iters", "iters")


def train(args: argparse.Namespace, section: SlimSection) -> int:
    """Compress as the section says; results go to ``<save_dir>/<name>``.

    Raises:
        UserError: a command has no such option, a flag of ``train`` means nothing to it, or weights are missing.
    """
    flags = _flags(args, section)
    return _single(args, section, flags) if len(section.steps) == 1 else _joint(args, section, flags)


def folder_of(args: argparse.Namespace, section: SlimSection) -> Path:
    """Folder of the run that the section makes: ``<save_dir>/<name>``."""
    return Path(args.save_dir) / section.name


def _flags(args: argparse.Namespace, section: SlimSection) -> dict[str, Any]:
    """The flags of ``train`` that were given (that differ from their defaults), for the commands that have them.

    Raises:
        UserError: none of the commands has one of them.
    """
    default = verbs.parser_of(verbs.VERBS["train"]).get_default
    given = {k: v for k, v in vars(args).items() if k not in _OWN and v != default(k)}
    parsers = [verbs.parser_of(verbs.VERBS[VERBS[step.method]]) for step in section.steps]
    for name in given:
        if name not in _ALWAYS and not any(verbs.has_option(parser, name) for parser in parsers):
            methods = ", ".join(step.method for step in section.steps)
            raise UserError(f"--{name} means nothing to {methods}.", "Leave it out.")
    return {k: v for k, v in given.items() if any(verbs.has_option(parser, k) for parser in parsers)}


def _single(args: argparse.Namespace, section: SlimSection, flags: Mapping[str, Any]) -> int:
    """Run the command of the section's method in this process."""
    (step,) = section.steps
    verb = verbs.VERBS[VERBS[step.method]]
    parser = verbs.parser_of(verb)
    options = _with_iters(step.options, parser, args.iters)
    weights = section.weights
    if section.distils and weights:
        options.setdefault("teacher_model_path", weights)
        weights = ""
    if args.resume_model and verbs.has_option(parser, "resume_model"):
        options["resume_model"] = args.resume_model
    elif args.resume_model:
        options["resume"] = True
    common = {**flags, "opts": args.opts, "overwrite": args.overwrite}
    values = {"config": args.config, "model": args.model_path or weights, "folder": str(folder_of(args, section))}
    where = args.slim_config or args.config
    parsed = verbs.check(verb, verbs.command_line(verb, options, values, common, where), where)
    return int(importlib.import_module(f"paddleseg_slim.cli.{verb.command}").run(parsed))


def _with_iters(options: Mapping[str, Any], parser: argparse.ArgumentParser, iters: int | None) -> dict[str, Any]:
    name = next((name for name in _ITERS if verbs.has_option(parser, name)), None)
    return {**options, name: iters} if name is not None and iters is not None else dict(options)


def _joint(args: argparse.Namespace, section: SlimSection, flags: Mapping[str, Any]) -> int:
    """Run the section's methods as a chain: resumed and repeated as any chain."""
    from paddleseg_slim.chain.plan import Plan
    from paddleseg_slim.cli.compress import carry_out
    from paddleseg_slim.train.logging import setup_logging

    setup_logging()
    folder = folder_of(args, section)
    if args.resume_model and folder.resolve() not in (path := Path(args.resume_model).resolve(), *path.parents):
        raise UserError(f"--resume_model {args.resume_model} is not in {folder}.", f"Give --resume_model {folder}.")
    plan = Plan(recipe_of(args, section, flags), folder, args.opts)
    plan.check()
    carry_out(plan, resume=bool(args.resume_model), overwrite=args.overwrite)
    return 0


def recipe_of(args: argparse.Namespace, section: SlimSection, flags: Mapping[str, Any]) -> Recipe:
    """The section as a recipe: each method works on what the one before made.

    A pruner that another method follows is not trained again unless it says so (``retraining_iters``); the teacher
    is that of the section, else the model that the chain begins with.

    Raises:
        UserError: there is no model to begin with.
    """
    weights = args.model_path or ("" if section.distils else section.weights)
    if not weights or not Path(weights).exists():
        cause = f"{weights} does not exist." if weights else "No --model_path is given."
        raise UserError(cause, "Give the trained weights that the compression begins with.")
    steps: list[Step] = []
    for number, item in enumerate(section.steps, 1):
        last = number == len(section.steps)
        verb = VERBS[item.method]
        options = _with_iters(item.options, verbs.parser_of(verbs.VERBS[verb]), args.iters if last else None)
        if item.method == "Pruner" and not last:
            options.setdefault("retraining_iters", 0)
        if item.method == "Distill":
            options.setdefault("teacher_model_path", section.weights or f"@{START}")
        steps.append(Step(STEP_NAMES[item.method], verb, options, steps[-1].name if steps else START))
    file = Path(args.slim_config or args.config)
    return Recipe(file, Path(args.config), Path(weights), tuple(steps), common=dict(flags))
