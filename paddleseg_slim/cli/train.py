"""Train a model from a config."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from paddleseg_slim.cli import arguments, evaluation, output, runner, setup, slim_section, slim_train, training
from paddleseg_slim.errors import UserError

if TYPE_CHECKING:
    import paddle

    from paddleseg_slim.tasks.base import Task

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
    slim_section.add(parser)
    training.add_schedule(parser)
    arguments.add_output(parser, "./output")
    arguments.add_weights(parser)
    arguments.add_device(parser)
    arguments.add_precision(parser)
    arguments.add_data_format(parser)
    parser.add_argument("--resume_model", metavar="DIR", help="go on from iter_N, or the latest one of a run's folder")
    parser.add_argument("--do_eval", action="store_true", help="evaluate at every checkpoint, keep the best model")
    evaluation.add_engine(parser, "--engine")
    parser.add_argument("--use_ema", action="store_true", help="also keep an average of the weights")
    parser.add_argument("--early_stop_intervals", type=int, metavar="N", help="stop after N evaluations in vain")
    parser.add_argument("--repeats", type=int, default=1, metavar="N", help="repeat the samples N times in an epoch")
    arguments.add_skip_bad(parser)
    parser.add_argument("--to_static_training", action="store_true", help="train through paddle.jit.to_static")
    parser.add_argument("--use_multilabel", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--profiler_options", help=argparse.SUPPRESS)
    parser.add_argument("--output_op", help=argparse.SUPPRESS)
    parser.add_argument("--input_shape", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--for_fd", action="store_true", help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Train; see `add_arguments`."""
    arguments.refuse(args, _NOT_HERE)
    section = slim_section.of_config(args)
    if section is not None:
        return slim_train.train(args, section)
    if args.resume_model and args.model_path:
        raise UserError("--resume_model and --model_path are both given.", "A resumed run has its own weights.")
    session = setup.start(args)
    from paddleseg_slim import config as configs
    from paddleseg_slim.data.check import preflight
    from paddleseg_slim.tasks import build_task

    overrides = {key: getattr(args, key) for key in ("iters", "batch_size", "learning_rate")}
    config = configs.load_config(args.config, args.opts, overrides=overrides)
    settings = training.settings_of(
        args,
        config,
        session.threads,
        do_eval=args.do_eval,
        precision=setup.precision(args),
        amp_level=args.amp_level,
        use_ema=args.use_ema,
        early_stop_intervals=args.early_stop_intervals,
    )
    task = build_task(config)
    preflight(task.train_dataset(), skip_bad=args.skip_bad)
    if args.do_eval:
        preflight(task.val_dataset(), skip_bad=args.skip_bad)
    dataset = setup.repeated(task.train_dataset(), args.repeats)
    resume = training.find_resume(args.resume_model, config, settings, len(dataset))
    goes_on = training.goes_on(resume, args.save_dir)
    with output.claimed(args.save_dir, overwrite=args.overwrite, resume=goes_on):
        static = args.to_static_training or config.to_static_training
        model = _model(args, task, static)
        if args.overwrite and not goes_on:
            _clear(settings.save_dir)
        result = training.fit(
            *(model, task, config, settings),
            dataset=dataset,
            resume=resume,
            use_vdl=args.use_vdl,
            engine="paddle" if static and args.eval_engine == "auto" else args.eval_engine,
        )
        if result.is_main:
            training.write_stage(settings.save_dir, model, task, result)
    runner.log(
        "Training ended after %d iterations in %.0f s; last checkpoint %s.", result.iters, result.seconds, result.folder
    )
    return 0


def _model(args: argparse.Namespace, task: Task, to_static: bool) -> paddle.nn.Layer:
    import paddle

    paddle.seed(args.seed)  # initial weights
    if args.model_path:
        model = setup.load_model(task, args.model_path, data_format=args.data_format, reset_head=args.reset_head)
    else:
        model = task.build_model(args.data_format)
    if paddle.distributed.get_world_size() > 1 and not paddle.get_device().startswith("cpu"):
        model = paddle.nn.SyncBatchNorm.convert_sync_batchnorm(model)  # Paddle has no kernel of it for the CPU
    return paddle.jit.to_static(model) if to_static else model


def _clear(run: Path) -> None:
    import paddle

    from paddleseg_slim.train import checkpoint

    if paddle.distributed.get_rank() == 0:
        checkpoint.clear_run(run)
