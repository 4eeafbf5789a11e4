"""Show where the time of a model goes, node by node."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from paddleseg_slim.cli import arguments, runner
from paddleseg_slim.errors import UserError

HELP = "show where the time of a model goes, node by node"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of ``profile``."""
    parser.add_argument("model", metavar="MODEL", help="exported model or saved graph: a file or a folder")
    parser.add_argument("--engine", default="onnxruntime", help="onnxruntime (default) or openvino")
    parser.add_argument("--input_shape", nargs="+", type=int, metavar="N", help="N C H W, or H W; default: what the "
                        "model says, 1x3x512x512 where that is open")  # fmt: skip
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="CPU threads; default: the physical cores")
    parser.add_argument("--runs", type=int, default=20, metavar="N", help="runs that count; times are medians")
    parser.add_argument("--top", type=int, default=30, metavar="N", help="rows of the table")
    parser.add_argument("--save_dir", metavar="DIR", help="write profile.json and profile.png there")


def run(args: argparse.Namespace) -> int:
    """Profile; see `add_arguments`."""
    from rich.console import Console

    from paddleseg_slim.deploy.description import default_shape
    from paddleseg_slim.deploy.prepare import model_file
    from paddleseg_slim.deploy.profile import ENGINES, profile_model
    from paddleseg_slim.deploy.runtimes import require_engine
    from paddleseg_slim.train.logging import setup_logging

    setup_logging()
    require_engine(args.engine)
    if args.engine not in ENGINES:
        raise UserError(
            f"{args.engine} does not tell the time of single nodes.", f"Choose one of: {', '.join(ENGINES)}."
        )
    arguments.at_least(args, runs=1, top=1, threads=0)
    given = tuple(args.input_shape or ())
    arguments.check_shape(given)
    if args.save_dir:
        arguments.check_folder(args.save_dir)
    with tempfile.TemporaryDirectory() as work:
        file = model_file(args.model, "onnxruntime", work)
        shape = given
        if len(given) != 4:
            own = default_shape(args.model, file)
            shape = (*own[: len(own) - len(given)], *given)
        profile = profile_model(file, args.engine, input_shape=shape, threads=args.threads, runs=args.runs)
    Console(width=None if sys.stdout.isatty() else 160).print(profile.table(args.top))
    if args.save_dir:
        profile.save(args.save_dir)
        runner.log("The profile is saved in %s.", Path(args.save_dir))
    return 0
