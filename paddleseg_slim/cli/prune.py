"""Prune a trained model: find out what matters, remove what does not, train the rest again, measure what it brought."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paddleseg_slim.cli import arguments, evaluation, output, prune_folder, runner, setup, training
from paddleseg_slim.errors import UserError

if TYPE_CHECKING:
    from paddleseg_slim.prune.plan import Goal

HELP = "prune a trained model and train it again"

RECONSTRUCT_IMAGES = 64
SPARSE_FACTOR = 1e-4

METHODS = ("channel", "unstructured", "gmp", "2:4")

_OF_CHANNELS: dict[str, Any] = {
    "target_params": None,
    "target_latency": None,
    "max_drop": None,
    "engine": None,
    "align": 8,
    "limit": [],
    "no_reconstruct": False,
    "sensitivity": None,
    "criterion": None,
    "sensitivity_images": None,
    "sensitivity_file": None,
    "label_free": False,
    "sparse_iters": 0,
}
"""Options that only the removal of channels has, and what they are when not given."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The tutorial's flags and what this package adds."""
    arguments.add_config(parser)
    parser.add_argument("--pruning_ratio", type=float, metavar="RATIO", help="part of the FLOPs to remove, 0 to 1")
    parser.add_argument("--retraining_iters", type=int, required=True, metavar="N", help="training steps after pruning")
    training.add_schedule(parser, iters=False)
    arguments.add_weights(parser)
    arguments.add_output(parser, "./output")
    arguments.add_device(parser)
    arguments.add_precision(parser)
    parser.add_argument("--from_scratch", action="store_true", help="prune random weights, to try a command out")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --save_dir, wherever it stopped")
    _add_goal(parser)
    _add_sensitivity(parser)
    _add_reconstruction(parser)
    _add_retraining(parser)
    evaluation.add_engine(parser)
    parser.add_argument("--no_bench", action="store_true", help="measure no latency")


def _add_goal(parser: argparse.ArgumentParser) -> None:
    goal = parser.add_argument_group("goal")
    goal.add_argument("--target-params", "--target_params", metavar="N", help="most parameters: 900000, 0.9M")
    goal.add_argument("--target-latency", "--target_latency", type=float, metavar="MS", help="longest run, measured")
    goal.add_argument("--engine", metavar="NAME", help="engine for --target-latency; default: onnxruntime or paddle")
    goal.add_argument(
        "--max-drop", "--max_drop", type=float, metavar="X", help="largest predicted loss: 0.01 = 1 point"
    )
    goal.add_argument("--align", type=int, default=8, metavar="N", help="reduced widths are multiples of N; default 8")
    goal.add_argument("--keep", nargs="+", default=[], metavar="REGEX", help="layers that stay as they are")
    goal.add_argument("--limit", nargs="+", default=[], metavar="REGEX=PART", help="largest part removed of layers")
    goal.add_argument("--method", choices=METHODS, default="channel", help="channels, or zeros in the weights")
    goal.add_argument("--only_1x1", action="store_true", help="zeros in 1x1 convolutions only")


def _add_sensitivity(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("sensitivity")
    modes = ("exact", "fast", "refit", "taylor", "none")
    group.add_argument(
        "--sensitivity", choices=modes, help="how; none: rank all channels globally; default: refit, "
        "or fast with --max-drop, --no_reconstruct, --from_scratch or an old --sensitivity_file"
    )  # fmt: skip
    group.add_argument(
        "--criterion", metavar="NAME", help="which channels of a group go first; default: l1_norm, with refit: obs"
    )
    group.add_argument(
        "--sensitivity_images", type=int, metavar="N", help="how many; default: all, 16 (fast, refit), 24 (taylor)"
    )
    group.add_argument("--label_free", action="store_true", help="exact, fast: how far outputs move, not the metric")
    group.add_argument("--sensitivity_file", metavar="FILE", help="curves of another run, or PaddleSlim's sen.pickle")


def _add_reconstruction(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("reconstruction")
    group.add_argument(
        "--no_reconstruct", action="store_true", help="leave the layers behind removed channels as they were"
    )
    group.add_argument(
        "--reconstruct_images", type=int, metavar="N", help=f"of the training list; default {RECONSTRUCT_IMAGES}"
    )


def _add_retraining(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("retraining")
    group.add_argument("--no_distill", action="store_true", help="without distillation from the unpruned model")
    group.add_argument("--distill_weight", type=float, metavar="W", help="of its loss; default 1")
    group.add_argument("--sparse_iters", type=int, default=0, metavar="N", help="steps of sparse training before")
    group.add_argument(
        "--sparse_factor", type=float, metavar="F", help=f"L1 on BatchNorm scales meanwhile; default {SPARSE_FACTOR}"
    )


def check(args: argparse.Namespace) -> None:
    """Say what is wrong with the flags alone.

    Raises:
        UserError: a number makes no sense, no goal or model is given, or one flag makes another one useless.
    """
    _check_method(args)
    goal_of(args)
    least = {"retraining_iters": 0, "sparse_iters": 0, "sensitivity_images": 1, "reconstruct_images": 1}
    arguments.at_least(args, **least)
    training.check_schedule(args)
    arguments.above_zero(args, "distill_weight", "sparse_factor")
    _check_pairs(args)
    if not args.model_path and not args.from_scratch:
        raise UserError("No --model_path is given.", "Give trained weights (--from_scratch prunes random ones).")
    if args.reconstruct_images is not None:
        without = {
            "--no_reconstruct": args.no_reconstruct and args.criterion != "obs",
            "--from_scratch": args.from_scratch and args.criterion != "obs",
            f"--method {args.method}": args.method != "channel",
        }
        useless = next((flag for flag, given in without.items() if given), None)
        if useless:
            raise UserError(f"--reconstruct_images is given, but {useless} refits no layer.", "Leave one of them out.")


def _check_pairs(args: argparse.Namespace) -> None:
    """Refuse options that another one, or its absence, makes useless."""
    if args.resume and args.overwrite:
        raise UserError("--resume goes on with what --overwrite replaces.", "Leave one of them out.")
    own = args.model_path and prune_folder.owned_part(Path(args.save_dir), Path(args.model_path))
    if args.overwrite and own:
        raise UserError(f"--model_path is in {own}, which --overwrite replaces.", "Give another --save_dir.")
    if args.distill_weight is not None and args.no_distill:
        raise UserError("--distill_weight is of the distillation that --no_distill leaves out.", "Leave one out.")
    if args.sparse_factor is not None and not args.sparse_iters:
        raise UserError("--sparse_factor is of the sparse training, of which there is none.", "Give --sparse_iters.")
    if args.engine is not None and args.target_latency is None:
        raise UserError(
            "--engine is the one that --target-latency is measured on.",
            "Give --target-latency, or leave --engine out: all engines installed are measured.",
        )
    if args.engine is not None:
        from paddleseg_slim.deploy.runtimes import require_engine

        require_engine(args.engine)


def _check_method(args: argparse.Namespace) -> None:
    """Refuse options that the method, or another option, makes useless."""
    if args.method == "channel":
        if args.only_1x1:
            raise UserError("--only_1x1 is of zeros in weights, --method channel removes channels.", "Leave it out.")
    else:
        useless = next((name for name, default in _OF_CHANNELS.items() if getattr(args, name) != default), None)
        if useless:
            raise UserError(
                f"--{useless} is of the removal of channels, --method {args.method} makes zeros in weights.",
                "Leave one of them out.",
            )
    if args.label_free and args.max_drop is not None:
        raise UserError(
            "--label_free measures how far the outputs move, not the drop of the metric that --max-drop is of.",
            "Leave one of them out.",
        )


def settle(args: argparse.Namespace) -> None:
    """Fill in what was not chosen: sensitivity and criterion, those of the file of curves or of the run that is resumed
    if there is one, and weights of losses.

    Raises:
        UserError: the file cannot be read, or another flag contradicts the sensitivity.
    """
    from paddleseg_slim.prune.criteria import CRITERIA
    from paddleseg_slim.prune.curves import Curves
    from paddleseg_slim.prune.old_pickle import is_pickle

    known = {}
    if args.sensitivity_file and is_pickle(args.sensitivity_file):
        known = {"sensitivity": "fast"}
        _check_pickle(args)
    elif args.sensitivity_file:
        known = Curves.read(args.sensitivity_file, "Give a whole one, or leave --sensitivity_file out.").made_with()
    elif args.resume:
        known = prune_folder.made_with(Path(args.save_dir))
    source = f"--sensitivity {args.sensitivity or known.get('sensitivity')}"
    if args.sensitivity is None:
        source += f", that of {args.sensitivity_file or args.save_dir},"
    if args.sensitivity is None:
        fast = args.max_drop is not None or args.label_free or args.no_reconstruct or args.from_scratch
        args.sensitivity = known.get("sensitivity", "fast" if fast else "refit")
    if args.criterion is None:
        args.criterion = known.get("criterion", "obs" if args.sensitivity == "refit" else "l1_norm")
    CRITERIA.get(args.criterion)
    if args.target_latency is not None and args.engine is None:
        args.engine = "onnxruntime" if evaluation.has_onnxruntime() else "paddle"
    args.distill_weight = 1.0 if args.distill_weight is None else args.distill_weight
    args.sparse_factor = SPARSE_FACTOR if args.sparse_factor is None else args.sparse_factor
    if args.method == "channel":
        _check_sensitivity(args, source)


def _check_pickle(args: argparse.Namespace) -> None:
    """Refuse flags on an analysis that the old file stands for."""
    analysis = {name: getattr(args, name) for name in ("sensitivity", "label_free", "sensitivity_images")}
    useless = next((name for name, given in analysis.items() if given), None)
    if useless:
        raise UserError(f"--{useless}: {args.sensitivity_file} is taken as it is.", "Leave one of them out.")


def _check_sensitivity(args: argparse.Namespace, source: str) -> None:
    """Refuse flags that the sensitivity, which ``source`` asks for, contradicts or has no use for."""
    from paddleseg_slim.prune.criteria import needs_gradients

    flags = {"--no_reconstruct": args.no_reconstruct, "--from_scratch": args.from_scratch}
    left_out = next((flag for flag, given in flags.items() if given), None)
    if left_out and args.sensitivity == "refit":
        raise UserError(f"{source} measures what {left_out} leaves out: the refit.", "Leave one of them out.")
    measured = args.sensitivity in ("exact", "fast")
    if args.max_drop is not None and not measured:
        raise UserError(f"{source} does not measure the metric that --max-drop is of.", "Use fast or exact.")
    if args.label_free and not measured:
        raise UserError(f"{source} needs no labels: --label_free is of fast and exact.", "Leave one of them out.")
    if args.sensitivity_images is not None and args.sensitivity == "none" and not needs_gradients(args.criterion):
        raise UserError(
            f"{source} with the criterion {args.criterion} looks at no --sensitivity_images.", "Leave one of them out."
        )


def run(args: argparse.Namespace) -> int:
    """Prune; see `add_arguments`."""
    check(args)
    settle(args)
    goal = goal_of(args)
    session = setup.start(args)
    from paddleseg_slim import config as configs
    from paddleseg_slim.cli import prune_run
    from paddleseg_slim.tasks import build_task

    overrides = {"iters": max(args.retraining_iters, 1), "batch_size": args.batch_size}
    config = configs.load_config(args.config, args.opts, overrides={**overrides, "learning_rate": args.learning_rate})
    task = build_task(config)
    task.val_dataset(), task.train_dataset()  # what is wrong with them is said now
    with output.claimed(args.save_dir, overwrite=args.overwrite, resume=args.resume, resume_flag="--resume") as folder:
        steps = prune_run.Run(args, config, task, session, goal, folder)
        if args.method == "channel":
            return steps.channel()
        return steps.sparse()


def goal_of(args: argparse.Namespace) -> Goal:
    """The goal by the flags.

    Raises:
        UserError: none is given, or a number makes no sense.
    """
    from paddleseg_slim.prune.plan import Goal

    if args.method == "2:4":
        if args.pruning_ratio not in (None, 0.5):
            raise UserError(
                f"--method 2:4 makes half of the weights zero, --pruning_ratio is {args.pruning_ratio}.",
                "Leave it out.",
            )
    elif args.method == "gmp" and args.retraining_iters < 2:
        raise UserError("--method gmp makes zeros while it trains.", "Give --retraining_iters 2 or more.")
    elif args.method != "channel":
        if args.pruning_ratio is None or not 0 <= args.pruning_ratio < 1:
            raise UserError(
                f"--method {args.method} with --pruning_ratio {args.pruning_ratio}.", "Give 0 <= ratio < 1."
            )
    elif all(getattr(args, n) is None for n in ("pruning_ratio", "target_params", "target_latency", "max_drop")):
        raise UserError(
            "No goal is given.", "Give --pruning_ratio, --target-params, --target-latency or --max-drop, or several."
        )
    return Goal(
        flops_removed=args.pruning_ratio,
        params=None if args.target_params is None else _count(args.target_params),
        max_drop=args.max_drop,
        latency_ms=args.target_latency,
        align=args.align,
        keep=tuple(args.keep),
        limits=tuple(_limit(text) for text in args.limit),
    )


def _count(text: str) -> float:
    """A number of parameters: ``900000``, ``900K``, ``0.9M``."""
    scale = {"K": 1e3, "M": 1e6, "G": 1e9}.get(text[-1:].upper(), 1.0)
    try:
        return float(text if scale == 1.0 else text[:-1]) * scale
    except ValueError:
        raise UserError(f"--target-params {text} is no number.", "Give 900000, 900K or 0.9M.") from None


def _limit(text: str) -> tuple[str, float]:
    pattern, _, part = text.rpartition("=")
    try:
        value = float(part)
    except ValueError:
        pattern, value = "", 0.0
    if not pattern:
        raise UserError(f"--limit {text} is not REGEX=PART.", "Give for example --limit 'backbone.stage1=0.3'.")
    if not 0 <= value < 1:
        raise UserError(f"--limit {text}: {part} is no part of a layer's channels.", "Give 0 <= part < 1.")
    return pattern, value


log = runner.log
