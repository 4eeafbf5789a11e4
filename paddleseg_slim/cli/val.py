"""Evaluate a trained model."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING

from paddleseg_slim.cli import arguments, evaluation, runner, setup, slim_section

if TYPE_CHECKING:
    from paddleseg_slim.tasks.base import Metrics

HELP = "evaluate a trained model"

_NOT_HERE = {"use_multilabel": ("multi-label segmentation is not supported.", "Leave it out.")}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """PaddleSeg's flags of ``val.py``."""
    arguments.add_config(parser)
    arguments.add_weights(parser)
    slim_section.add(parser)
    arguments.add_device(parser)
    arguments.add_precision(parser)
    arguments.add_data_format(parser)
    arguments.add_inference(parser, "aug_eval")
    arguments.add_skip_bad(parser)
    parser.add_argument("--auc_roc", action="store_true", help="also the area under the ROC curve")
    parser.add_argument("--num_workers", type=int, default=1, metavar="N", help="threads that load data ahead")
    parser.add_argument("--batch_size", type=int, default=8, metavar="N", help="images of one size at once")
    parser.add_argument("--dataset", choices=("val", "test", "train"), default="val",
                        help="section to evaluate on; default val")  # fmt: skip
    parser.add_argument(
        "--engine", choices=evaluation.ENGINES, default="auto", help="what runs the model; auto: fastest"
    )
    parser.add_argument("--json", metavar="FILE", help="also write the result as JSON")
    parser.add_argument("--use_multilabel", action="store_true", help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Evaluate; see `add_arguments`."""
    arguments.refuse(args, _NOT_HERE)
    args.model_path = slim_section.need_model(args)
    arguments.at_least(args, batch_size=1, num_workers=0)
    evaluation.check_engine(args)
    session = setup.start(args)
    from paddleseg_slim import config as configs
    from paddleseg_slim.data.check import preflight
    from paddleseg_slim.files import write_json
    from paddleseg_slim.tasks import build_task
    from paddleseg_slim.train.evaluate import evaluate, model_forward

    config = configs.load_config(args.config, args.opts)
    task = build_task(config)
    settings = arguments.inference_settings(args, "aug_eval", config.test_config)
    settings["auc_roc"] = args.auc_roc or settings.get("auc_roc", False)
    task.check_inference(settings)
    dataset = getattr(task, f"{args.dataset}_dataset")()
    preflight(dataset, skip_bad=args.skip_bad)
    model = setup.load_model(task, args.model_path, data_format=args.data_format, reset_head=args.reset_head)
    if setup.precision(args) == "fp16":
        forward = model_forward(model, autocast=args.amp_level)
    else:
        forward = evaluation.fast_forward(model, task, args.engine, session.threads, args.batch_size)
    metrics = evaluate(
        forward, task, dataset, batch_size=args.batch_size, num_workers=args.num_workers, settings=settings
    )
    say(metrics)
    if args.json:
        write_json(args.json, {**asdict(metrics), "model_path": args.model_path, "dataset": args.dataset})
    return 0


def say(metrics: Metrics) -> None:
    """Log the result in PaddleSeg's lines."""
    runner.log("[EVAL] %s", metrics.line())
    texts = {name: "absent" if value is None else f"{value:.4f}" for name, value in metrics.per_class.items()}
    rows = ", ".join(f"{name}: {text}" for name, text in texts.items())
    runner.log("[EVAL] Class %s: %s", metrics.primary.replace("mIoU", "IoU"), rows)
