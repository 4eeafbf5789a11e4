"""Train a student with a teacher's help."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from paddleseg_slim.cli import arguments, evaluation, output, setup, training
from paddleseg_slim.errors import UserError

if TYPE_CHECKING:
    from paddleseg_slim.config import Config
    from paddleseg_slim.distill import Term

HELP = "train a student with a teacher's help"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """PaddleSeg's flags of ``distill_train.py`` and what this package adds."""
    parser.add_argument("--student_config", "--config", dest="config", required=True, metavar="FILE",
                        help="config of the student, the data and the schedule")  # fmt: skip
    parser.add_argument("--teacher_config", "--teather_config", metavar="FILE", help="config of the teacher")
    parser.add_argument(
        "--opts", nargs="+", default=[], metavar="KEY=VALUE", help="change keys of the student's config"
    )
    parser.add_argument("--teacher_model_path", metavar="PATH",
                        help="the teacher: weights, a saved graph, or an exported model of logits")  # fmt: skip
    training.add_schedule(parser)
    arguments.add_weights(parser)
    arguments.add_output(parser, "./output/distill")
    arguments.add_device(parser)
    parser.add_argument("--resume", action="store_true", help="go on with the run in --save_dir, if there is one")
    parser.add_argument("--resume_model", metavar="DIR", help="go on from iter_N, or the latest one of a run's folder")
    parser.add_argument("--do_eval", action="store_true", help="evaluate at every checkpoint, keep the best model")
    evaluation.add_engine(parser, "--engine")
    group = parser.add_argument_group("losses (besides distill_loss and slim.distill of the student's config)")
    group.add_argument("--logits_loss", metavar="NAME", help="KDLoss, KLLoss, DKDLoss, CWDLoss, ...")
    group.add_argument("--logits_weight", type=float, default=1.0, metavar="W", help="factor on it; default 1")
    group.add_argument("--feature_loss", metavar="NAME", help="CWDLoss, L2FeatureLoss, FSPLoss, PairwiseLoss, ...")
    group.add_argument("--feature_weight", type=float, default=1.0, metavar="W", help="factor on it; default 1")
    group.add_argument("--student_taps", default="auto", metavar="NAMES",
                       help="nodes or layers, separated by commas; default: stages of equal resolution")  # fmt: skip
    group.add_argument("--teacher_taps", default="", metavar="NAMES", help="the same of the teacher")
    group.add_argument("--temperature", type=float, metavar="T", help="of the losses by flag that have one")
    group.add_argument("--mutual", action="store_true", help="the teacher learns, too, from the student (DML)")
    group.add_argument("--cache_teacher", action="store_true",
                       help="keep the teacher's outputs on disk; the data must not be augmented")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Distil; see `add_arguments`."""
    _check_flags(args)
    session = setup.start(args)
    from paddleseg_slim.cli.distill_run import Run

    config, teacher, terms = _settings(args)
    work = Run(args, config, teacher, terms, session)
    with output.claimed(args.save_dir, overwrite=args.overwrite, resume=work.goes_on) as folder:
        work.run(folder)
    return 0


def check(args: argparse.Namespace) -> None:
    """Say what is wrong with flags, configs and losses before any data or model is read.

    Raises:
        UserError: something is.
    """
    _check_flags(args)
    _settings(args)


def _settings(args: argparse.Namespace) -> tuple[Config, Config, list[Term]]:
    """The student's config, the teacher's, and what is compared."""
    from paddleseg_slim import config as configs

    overrides = {key: getattr(args, key) for key in ("iters", "batch_size", "learning_rate")}
    config = configs.load_config(args.config, args.opts, overrides=overrides)
    teacher = configs.load_config(args.teacher_config) if args.teacher_config else config
    return config, teacher, [] if args.mutual else terms_of(args, config)


def _check_flags(args: argparse.Namespace) -> None:
    if not args.teacher_config and not args.teacher_model_path:
        raise UserError("There is no teacher.", "Give --teacher_config and --teacher_model_path.")
    if not args.mutual and not args.teacher_model_path:
        raise UserError("No --teacher_model_path is given.", "Give trained weights; --mutual trains both.")
    if args.mutual and (args.feature_loss or args.logits_loss or args.cache_teacher):
        raise UserError("--mutual has a loss of its own (DMLLoss).", "Leave the other losses and --cache_teacher out.")
    if args.resume and args.resume_model:
        raise UserError("--resume and --resume_model are both given.", "Give one of them.")
    training.check_schedule(args)


def terms_of(args: argparse.Namespace, config: Config) -> list[Term]:
    """What is compared: by flags, else by the config, else Hinton's loss of the logits.

    Raises:
        UserError: a loss or an argument of one is unknown.
    """
    from paddleseg_slim.distill import settings

    terms = []
    for name, weight, taps in (
        (args.logits_loss, args.logits_weight, ("", "")),
        (args.feature_loss, args.feature_weight, (args.student_taps, args.teacher_taps)),
    ):
        if name:
            softened = {} if args.temperature is None else {"temperature": args.temperature}
            terms.append(settings.term(name, weight, *taps, **softened))
    if terms:
        return terms
    if config.distill_loss is not None:
        terms += settings.terms_of_losses(config.distill_loss)
    if config.slim.get("distill"):
        terms += settings.terms_of_list(config.slim["distill"])
    return terms or [settings.term("KDLoss", args.logits_weight)]
