"""Compare the accuracy of models on the same images, with an interval that says whether a difference is one."""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paddleseg_slim.cli import arguments, evaluation, setup
from paddleseg_slim.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from rich.table import Table

    from paddleseg_slim.tasks.base import Forward, Metrics, Task

HELP = "compare the accuracy of models on the same images"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of ``compare``."""
    arguments.add_config(parser)
    parser.add_argument("--models", required=True, nargs="+", metavar="NAME=PATH",
                        help="weights, compressed folders or .onnx files; the first is the base")  # fmt: skip
    parser.add_argument("--dataset", choices=("val", "test", "train"), default="test",
                        help="section to evaluate on; default test")  # fmt: skip
    parser.add_argument("--batch_size", type=int, default=8, metavar="N", help="images of one size at once")
    parser.add_argument("--num_workers", type=int, default=1, metavar="N", help="threads that load data ahead")
    parser.add_argument("--repeats", type=int, default=1000, metavar="N", help="bootstrap samples")
    parser.add_argument("--json", metavar="FILE", help="write the result there")
    arguments.add_device(parser)


def run(args: argparse.Namespace) -> int:
    """Compare; see `add_arguments`."""
    arguments.at_least(args, batch_size=1, num_workers=0, repeats=100)
    models = _models(args.models)
    if args.json:
        arguments.check_folder(str(Path(args.json).parent))
        if Path(args.json).is_dir():
            raise UserError(f"--json {args.json} is a folder.", "Name a file.")
    session = setup.start(args)
    from rich.console import Console

    from paddleseg_slim import config as configs
    from paddleseg_slim.files import write_json
    from paddleseg_slim.metrics.bootstrap import paired_difference
    from paddleseg_slim.tasks import build_task

    config = configs.load_config(args.config, args.opts)
    task = build_task(config)
    dataset = getattr(task, f"{args.dataset}_dataset")()
    results: dict[str, tuple[Metrics, np.ndarray]] = {}
    for name, path in models.items():
        with tempfile.TemporaryDirectory() as work:
            forward = _forward(path, task, session.threads, Path(work))
            results[name] = _counts(forward, task, dataset, config.test_config, args, name)
    base = results[next(iter(results))][1]
    differences = {
        name: paired_difference(base, counts, _score(task), repeats=args.repeats)
        for name, (_, counts) in list(results.items())[1:]
    }
    Console().print(_table({name: metrics for name, (metrics, _) in results.items()}, differences, args.dataset))
    if args.json:
        rows = [
            {"name": name, "path": str(models[name]), **asdict(metrics)}
            | ({"difference": asdict(differences[name])} if name in differences else {})
            for name, (metrics, _) in results.items()
        ]
        write_json(args.json, {"dataset": args.dataset, "repeats": args.repeats, "models": rows})
    return 0


def _models(texts: list[str]) -> dict[str, Path]:
    models: dict[str, Path] = {}
    for text in texts:
        name, path = arguments.named(text)
        if not name:
            raise UserError(f"{text} has no name.", "Name it: --models NAME=PATH NAME=PATH.")
        if name in models:
            raise UserError(f"Two models are called {name}.", "Name them: --models NAME=PATH NAME=PATH.")
        if not Path(path).exists():
            raise UserError(f"The model {path} does not exist.", "Give weights, a folder or an .onnx file.")
        models[name] = Path(path)
    if len(models) < 2:
        raise UserError(
            "There is nothing to compare one model with.", "Give two or more: --models NAME=PATH NAME=PATH."
        )
    return models


def _forward(path: Path, task: Task, threads: int, work: Path) -> Forward:
    if path.suffix != ".onnx":
        return evaluation.fast_forward(setup.load_model(task, str(path)), task, threads=threads)
    from paddleseg_slim.deploy.evaluate import runtime_forward
    from paddleseg_slim.deploy.prepare import model_file
    from paddleseg_slim.deploy.runtimes import RuntimeOptions, load

    file = model_file(str(path), "onnxruntime", work)
    runtime = load(file, "onnxruntime", RuntimeOptions(device="cpu", threads=threads))
    evaluation.check_described(path, task)
    return runtime_forward(runtime, len(task.class_names()))


def _counts(
    forward: Forward, task: Task, dataset: Any, settings: dict[str, Any], args: argparse.Namespace, name: str
) -> tuple[Metrics, np.ndarray]:
    """The metrics of all images, and the counts of each, ``[N, ...]``."""
    import numpy as np

    from paddleseg_slim.train.evaluate import batches
    from paddleseg_slim.train.progress import Progress

    total, each, forward = task.accumulator(), [], task.inference(forward, settings)
    with Progress(len(dataset), f"[EVAL] {name}") as progress:
        for batch in batches(dataset, args.batch_size, args.num_workers):
            outputs = np.asarray(task.logits(forward(batch["img"])))
            for place in range(len(batch["img"])):
                one = task.accumulator()
                one.update(outputs[place : place + 1], {**batch, "label": batch["label"][place : place + 1]})
                each.append(one.counts)
                total.images += one.images
            progress.step(len(batch["img"]))
    total.counts = np.sum(each, axis=0)
    return total.result(), np.stack(each)


def _score(task: Task) -> Any:
    def score(counts: np.ndarray) -> float:
        accumulator = task.accumulator()
        accumulator.counts, accumulator.images = counts, 1
        return accumulator.result().score

    return score


def _table(metrics: dict[str, Metrics], differences: dict[str, Any], dataset: str) -> Table:
    from rich.table import Table

    first = next(iter(metrics.values()))
    table = Table(title=f"{first.primary} on {first.images} images ({dataset})")
    for heading in ("model", first.primary, "points against the first", "95 % interval", "verdict"):
        table.add_column(heading, justify="left" if heading in ("model", "verdict") else "right")
    for name, result in metrics.items():
        row = [name, f"{result.score:.4f}", "", "", ""]
        if name in differences:
            found = differences[name]
            verdict = "no difference" if found.no_difference else "better" if found.value > 0 else "worse"
            row[2:] = [f"{100 * found.value:+.2f}", f"[{100 * found.low:+.2f}, {100 * found.high:+.2f}]", verdict]
        table.add_row(*row)
    return table
