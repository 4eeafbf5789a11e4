"""Train a model from a config."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from paddleseg_slim.cli import arguments, output, runner, setup
from paddleseg_slim.errors import UserError

if TYPE_CHECKING:
    from paddleseg_slim.config import Config
    from paddleseg_slim.tasks.base import Task
    from paddleseg_slim.train.checkpoint import Checkpoint
    from paddleseg_slim.train.loop import TrainResult, TrainSettings

HELP = "train a model from a config"

_NOT_HERE = {
    "use_multilabel": ("multi-label segmentation is not supported.", "Leave it out."),
    "profiler_options": ("training is not profiled here.", "Profile a model with `paddleseg-slim profile`."),
    "output_op": ("training does not export.", "Give it to export.py."),
    "input_shape": ("training does not export.", "Give it to export.py."),
    "for_fd": ("training does not export.", "Give it to export.py."),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """PaddleSeg's flags of ``train.py``, old and new."""
    arguments.add_config(parser)
    add_schedule(parser)
    arguments.add_output(parser, "./output")
    arguments.add_weights(parser)
    arguments.add_device(parser)
    arguments.add_precision(parser)
    arguments.add_data_format(parser)
    parser.add_argument("--resume_model", metavar="DIR", help="go on from iter_N, or the latest one of a run's folder")
    parser.add_argument("--do_eval", action="store_true", help="evaluate at every checkpoint, keep the best model")
    parser.add_argument("--use_ema", action="store_true", help="also keep an average of the weights")
    parser.add_argument("--early_stop_intervals", type=int, metavar="N", help="stop after N evaluations in vain")
    parser.add_argument("--repeats", type=int, default=1, metavar="N", help="repeat the samples N times in an epoch")
    parser.add_argument("--to_static_training", action="store_true", help="train through paddle.jit.to_static")
    parser.add_argument("--use_multilabel", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--profiler_options", help=argparse.SUPPRESS)
    parser.add_argument("--output_op", help=argparse.SUPPRESS)
    parser.add_argument("--input_shape", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--for_fd", action="store_true", help=argparse.SUPPRESS)


def add_schedule(parser: argparse.ArgumentParser) -> None:
    """Flags on the course of a training, which retraining commands share."""
    parser.add_argument("--iters", type=int, metavar="N", help="training steps; default: the config's")
    parser.add_argument("--batch_size", type=int, metavar="N", help="samples of a step on one device")
    parser.add_argument("--learning_rate", type=float, metavar="RATE", help="default: the config's")
    parser.add_argument("--save_interval", type=int, default=1000, metavar="N", help="steps between checkpoints")
    parser.add_argument("--keep_checkpoint_max", type=int, default=5, metavar="N", help="checkpoints kept; 0: all")
    parser.add_argument("--log_iters", type=int, default=10, metavar="N", help="steps between log lines")
    parser.add_argument("--num_workers", type=int, default=0, metavar="N", help="processes that load data")
    parser.add_argument("--seed", type=int, default=42, metavar="N", help="of data order, augmentation, dropout")
    parser.add_argument("--use_vdl", action="store_true", help="write logs for VisualDL")


def run(args: argparse.Namespace) -> int:
    """Train; see `add_arguments`."""
    arguments.refuse(args, _NOT_HERE)
    if args.resume_model and args.model_path:
        raise UserError("--resume_model and --model_path are both given.", "A resumed run has its own weights.")
    session = setup.start(args)
    from paddleseg_slim import config as configs
    from paddleseg_slim.tasks import build_task

    overrides = {key: getattr(args, key) for key in ("iters", "batch_size", "learning_rate")}
    config = configs.load_config(args.config, args.opts, overrides=overrides)
    settings = _settings(args, config, session.threads)
    task = build_task(config)
    resume = _resume(args, config, settings, task)
    with output.claimed(args.save_dir, overwrite=args.overwrite, resume=_goes_on(resume, settings.save_dir)):
        result = _train(args, config, task, settings, resume)
    runner.log(
        "Training ended after %d iterations in %.0f s; last checkpoint %s.", result.iters, result.seconds, result.folder
    )
    return 0


def _settings(args: argparse.Namespace, config: Config, threads: int) -> TrainSettings:
    from paddleseg_slim.train.loop import TrainSettings

    return TrainSettings(
        iters=config.iters,
        batch_size=config.batch_size,
        save_dir=Path(args.save_dir),
        save_interval=args.save_interval,
        log_iters=args.log_iters,
        keep_checkpoint_max=args.keep_checkpoint_max,
        num_workers=args.num_workers,
        seed=args.seed,
        do_eval=args.do_eval,
        test_config=config.test_config,
        precision="fp16" if args.fp16 else args.precision,
        amp_level=args.amp_level,
        use_ema=args.use_ema,
        early_stop_intervals=args.early_stop_intervals,
        threads=threads,
    )


def _goes_on(resume: Checkpoint | None, run: Path) -> bool:
    """Whether the run that is resumed is the one in ``run``."""
    return resume is not None and resume.folder.parent.resolve() == run.resolve()


def _resume(args: argparse.Namespace, config: Config, settings: TrainSettings, task: Task) -> Checkpoint | None:
    if not args.resume_model:
        return None
    from paddleseg_slim.train import checkpoint, loop

    found = checkpoint.find_resume(args.resume_model)
    differences = config.differences(found.manifest.config) if found.manifest else []
    samples = len(task.train_dataset()) * args.repeats
    loop.check_same_run(found, differences, settings, samples, settings.threads)
    runner.log("Resume from %s.", found.folder)
    return found


def _train(
    args: argparse.Namespace, config: Config, task: Task, settings: TrainSettings, resume: Checkpoint | None
) -> TrainResult:
    import paddle

    from paddleseg_slim.train import checkpoint, loop, optim
    from paddleseg_slim.train.logging import CurveLogger, Loggers, VisualDLLogger

    paddle.seed(args.seed)  # initial weights
    model = setup.build_model(task, args.data_format)
    if args.model_path:
        checkpoint.load_weights(model, args.model_path, reset_head=args.reset_head)
    schedule = optim.build_schedule(config.lr_scheduler, config.iters)
    optimizer = optim.build_optimizer(config.optimizer, schedule, model)
    dataset = setup.repeated(task.train_dataset(), args.repeats)
    if args.do_eval:
        task.val_dataset()
    start, first = resume.iter if resume else 0, paddle.distributed.get_rank() == 0
    if first and args.overwrite and not _goes_on(resume, settings.save_dir):
        checkpoint.clear_run(settings.save_dir)
    loggers = [CurveLogger(settings.save_dir, start)] if first else []
    if first and args.use_vdl:
        loggers.append(VisualDLLogger(settings.save_dir))
    network = paddle.jit.to_static(model) if args.to_static_training or config.to_static_training else model
    logger = Loggers(loggers)
    try:
        return loop.train(
            network,
            task,
            optimizer,
            settings,
            dataset=dataset,
            logger=logger,
            resume=resume,
            config=config.to_dict(),
            fingerprint=config.fingerprint(),
        )
    finally:
        logger.close()
