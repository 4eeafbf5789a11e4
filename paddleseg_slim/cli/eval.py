"""Evaluate an exported file itself, in the engine that will run it."""

from __future__ import annotations

import argparse
import json
import math
import shlex
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paddleseg_slim.cli import arguments, evaluation, runner, setup
from paddleseg_slim.cli.val import say
from paddleseg_slim.errors import GoalNotMet, UserError

if TYPE_CHECKING:
    from paddle.nn import Layer

    from paddleseg_slim.tasks.base import Metrics, Task

HELP = "evaluate an exported model in the engine that will run it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of ``eval``."""
    arguments.add_config(parser)
    parser.add_argument("--model", required=True, metavar="PATH", help="exported model: a file or a folder")
    parser.add_argument("--runtime", "--engine", dest="engine", default="onnxruntime", metavar="ENGINE",
                        help="paddle, onnxruntime (default), openvino, tensorrt")  # fmt: skip
    parser.add_argument("--precision", choices=("fp32", "fp16", "bf16", "int8"), default="fp32")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads; default: the physical cores")
    parser.add_argument("--model_path", metavar="PATH", help="source model, to say the difference: weights or a folder")
    parser.add_argument("--source_metrics", metavar="FILE", help="the same, as written by val.py --json")
    parser.add_argument("--max-drop", "--max_drop", type=float, metavar="D",
                        help="exit 3 when the file is worse than the source by over D (0.01: a point)")  # fmt: skip
    parser.add_argument("--batch_size", type=int, default=8, metavar="N", help="images of one size at once")
    parser.add_argument("--num_workers", type=int, default=1, metavar="N", help="threads that load data ahead")
    parser.add_argument("--dataset", choices=("val", "test", "train"), default="val",
                        help="section to evaluate on; default val")  # fmt: skip
    parser.add_argument("--save_dir", metavar="DIR", help="write eval.json and stage.json there")


def run(args: argparse.Namespace) -> int:
    """Evaluate; see `add_arguments`."""
    started = time.monotonic()
    arguments.at_least(args, batch_size=1, num_workers=0)
    if args.max_drop is not None and not (args.model_path or args.source_metrics):
        raise UserError("--max-drop needs a source to compare with.", "Give --model_path or --source_metrics.")
    if args.max_drop is not None and not math.isfinite(args.max_drop):
        raise UserError(f"--max-drop is {args.max_drop}.", "Give a number such as 0.01, a point.")
    from paddleseg_slim.deploy.runtimes import require_engine

    require_engine(args.engine)
    if args.save_dir:
        arguments.check_stage_folder(args.save_dir, "eval")
    setup.start(argparse.Namespace(device="cpu" if args.device == "cpu" else None, threads=args.threads))
    from paddleseg_slim import config as configs
    from paddleseg_slim.files import write_json
    from paddleseg_slim.tasks import build_task

    config = configs.load_config(args.config, args.opts)
    task = build_task(config)
    source = _known_source(args, task)
    model = setup.load_model(task, args.model_path) if args.model_path and source is None else None
    with tempfile.TemporaryDirectory() as work:
        metrics, info = _evaluate_file(args, task, config.test_config, Path(work))
    say(metrics)
    if model is not None:
        source = _measured(args, task, model, config.test_config).score
    drop = None if source is None else source - metrics.score
    if drop is not None:
        runner.log(
            "[EVAL] %s of the source %.4f, of the file %.4f, drop %.4f", metrics.primary, source, metrics.score, drop
        )
    if args.save_dir:
        data = {**asdict(metrics), "model": args.model, "engine": info, "source": source, "drop": drop}
        write_json(Path(args.save_dir) / "eval.json", data)
        _write_stage(args, metrics, info, time.monotonic() - started)
    if args.max_drop is not None and drop is not None and drop > args.max_drop:
        raise GoalNotMet(
            f"{metrics.primary} fell by {drop:.4f} ({source:.4f} to {metrics.score:.4f}), at most {args.max_drop} "
            "was asked for.",
            "Keep more layers in float, retrain, or raise --max-drop.",
        )
    return 0


def _evaluate_file(
    args: argparse.Namespace, task: Task, settings: dict[str, Any], work: Path
) -> tuple[Metrics, dict[str, Any]]:
    from paddleseg_slim.deploy.evaluate import fixed_batch, runtime_forward
    from paddleseg_slim.deploy.prepare import model_file
    from paddleseg_slim.deploy.runtimes import RuntimeOptions, load
    from paddleseg_slim.train.evaluate import evaluate

    file = model_file(args.model, args.engine, work)
    options = RuntimeOptions(device=args.device, threads=args.threads or 0, precision=args.precision)
    runtime = load(file, args.engine, options)
    evaluation.check_described(Path(args.model), task)
    info = runtime.describe().to_dict()
    for note in info["notes"]:
        runner.log("%s", note)
    if info["convolutions"]:
        counts = ", ".join(f"{count} in {name}" for name, count in sorted(info["convolutions"].items()))
        runner.log("%s %s runs its convolutions: %s", info["engine"], info["version"], counts)
    if info["fallbacks"]:
        runner.log("%d quantized convolutions fell back to float.", info["fallbacks"])
    forward = runtime_forward(runtime, len(task.class_names()))
    dataset = getattr(task, f"{args.dataset}_dataset")()
    batch = fixed_batch(runtime) or args.batch_size
    return evaluate(forward, task, dataset, batch_size=batch, num_workers=args.num_workers, settings=settings), info


def _known_source(args: argparse.Namespace, task: Task) -> float | None:
    """The primary number of the source model by ``--source_metrics``."""
    if not args.source_metrics:
        return None
    path = Path(args.source_metrics)
    if not path.is_file():
        raise UserError(f"--source_metrics {path} does not exist.", "Write it with val.py --json.")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return float(data["values"][task.primary])
    except (ValueError, KeyError, TypeError):
        raise UserError(f"--source_metrics {path} tells no {task.primary}.", "Write it with val.py --json.") from None


def _measured(args: argparse.Namespace, task: Task, model: Layer, settings: dict[str, Any]) -> Metrics:
    """The source model on the same data."""
    from paddleseg_slim.train.evaluate import evaluate

    dataset = getattr(task, f"{args.dataset}_dataset")()
    return evaluate(
        evaluation.Forwards(task, images=len(dataset), threads=args.threads or 0, batch_size=args.batch_size)(model),
        *(task, dataset),
        batch_size=args.batch_size,
        num_workers=args.num_workers,
        settings=settings,
        title="Source",
    )


def _write_stage(args: argparse.Namespace, metrics: Metrics, info: dict[str, Any], seconds: float) -> None:
    from paddleseg_slim.deploy.runtimes.machine import describe_machine
    from paddleseg_slim.report import Stage, write_stage
    from paddleseg_slim.report.stage import Accuracy

    notes = list(info["notes"])
    if info["fallbacks"]:
        notes.append(f"{info['fallbacks']} quantized convolutions fell back to float in {info['engine']}.")
    folder = Path(args.save_dir)
    stage = Stage(
        name=folder.resolve().name,
        kind="eval",
        command=shlex.join(["python", *sys.argv]),
        accuracy=Accuracy.of(metrics, args.engine),
        environment=describe_machine(),
        notes=tuple(notes),
        seconds=seconds,
    )
    write_stage(folder, stage)
