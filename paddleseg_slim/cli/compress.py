"""Carry out a recipe: train, prune, distil, quantize, export, measure, report, each on what the one before made."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from paddleseg_slim.cli import arguments, output, runner
from paddleseg_slim.errors import UserError

if TYPE_CHECKING:
    from paddleseg_slim.chain.plan import Plan
    from paddleseg_slim.chain.recipe import Recipe

HELP = "carry out a recipe: prune, distil, quantize, export, measure, report; resumed wherever it stopped"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to do, where, and how much of it."""
    parser.add_argument("--recipe", required=True, metavar="FILE", help="recipe (YAML), as those in configs/recipes/")
    parser.add_argument("--opts", nargs="+", default=[], metavar="KEY=VALUE", help="change keys of the config")
    text = "change keys of the recipe: steps.0.prune.pruning_ratio=0.5"
    parser.add_argument("--recipe_opts", nargs="+", default=[], metavar="KEY=VALUE", help=text)
    arguments.add_output(parser, "./output/compress")
    parser.add_argument("--resume", action="store_true", help="keep what is done in --save_dir, and go on")
    parser.add_argument("--from_scratch", action="store_true", help="train the first model instead of reading it")
    parser.add_argument("--dry_run", action="store_true", help="only say what would run, why, and about how long")
    parser.add_argument("--device", choices=arguments.DEVICES, help="for all steps; default: each command's own")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads, for all steps")


def run(args: argparse.Namespace) -> int:
    """Carry out the recipe; see `add_arguments`."""
    from paddleseg_slim.chain.plan import Plan
    from paddleseg_slim.chain.recipe import load_recipe
    from paddleseg_slim.train.logging import setup_logging

    setup_logging()
    arguments.at_least(args, threads=1)
    common = [f"common.{name}={getattr(args, name)}" for name in ("device", "threads") if getattr(args, name)]
    recipe = load_recipe(args.recipe, [*args.recipe_opts, *common], from_scratch=args.from_scratch)
    plan = Plan(recipe, Path(args.save_dir), args.opts)
    plan.check()
    if args.dry_run:
        return _dry_run(plan)
    carry_out(plan, resume=args.resume, overwrite=args.overwrite)
    return 0


def carry_out(plan: Plan, *, resume: bool, overwrite: bool) -> None:
    """Run a plan that is checked already in its folder.

    Args:
        plan: what to do, and where.
        resume: go on with the chain in the folder.
        overwrite: begin anew; what the chain in the folder left is removed.

    Raises:
        UserError: the folder holds something else, or a run and neither flag is given.
        SlimError: a step failed.
    """
    from paddleseg_slim.chain import runner as chains

    _refuse_strangers(plan.folder, resume or overwrite)
    with output.claimed(str(plan.folder), overwrite=True):
        if overwrite:
            chains.clear(plan.folder)
        chains.Chain(plan).run()
    _say_end(plan.recipe, plan.folder)


def _refuse_strangers(folder: Path, allowed: bool) -> None:
    """Refuse a folder with content that is not this chain's to go on with."""
    from paddleseg_slim.chain.state import FILE_NAME

    content = arguments.visible(folder) if folder.is_dir() else []
    if not content:
        return
    if not (folder / FILE_NAME).is_file():
        raise UserError(f"{folder} holds {content[0].name}, but no {FILE_NAME} of a chain.", "Give another --save_dir.")
    if not allowed:
        raise UserError(
            f"{folder} holds a run already.", "Give --resume to go on with it, or --overwrite to begin anew."
        )


def _dry_run(plan: Plan) -> int:
    """Print what would run."""
    from rich.console import Console

    from paddleseg_slim.chain.estimate import dry_run_table

    console = Console()
    console.print(dry_run_table(plan))
    return 0


def _say_end(recipe: Recipe, folder: Path) -> None:
    from paddleseg_slim.chain.state import State

    seconds = sum(record.seconds for record in State.read(folder).steps.values())
    runner.log("%s: all steps are done; they took %.0f s. Results in %s.", recipe.path.name, seconds, folder)
