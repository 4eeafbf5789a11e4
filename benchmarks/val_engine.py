"""`val.py` through an engine against Paddle's eager kernels: seconds of the same evaluation, and the mIoU of both.

    python benchmarks/val_engine.py --models unet fast_scnn bisenetv2 --images 48

Random weights: speed alone; the classes they give are arbitrary, but both must give the same ones. The images are held
in memory, so that only what differs is timed: model, metric, and the export of the model for the engine. Turns
alternate.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import paddle
from rich.console import Console
from rich.table import Table

from paddleseg_slim import config as configs
from paddleseg_slim.cli.evaluation import fast_forward
from paddleseg_slim.files import write_json
from paddleseg_slim.models.zoo import build
from paddleseg_slim.tasks import build_task
from paddleseg_slim.train.device import set_threads
from paddleseg_slim.train.evaluate import evaluate

ENGINES = ("paddle", "onnxruntime")


class Held:
    """Samples in memory."""

    def __init__(self, samples: list[Any]) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Any:
        return self._samples[index]


def compare(name: str, task: Any, data: Held, args: argparse.Namespace) -> dict[str, Any]:
    """Time the evaluations of one model in turns."""
    paddle.seed(0)
    model = build(name, len(task.class_names()))
    model.eval()
    seconds: dict[str, list[float]] = {engine: [] for engine in ENGINES}
    scores: dict[str, float] = {}
    prepared = 0.0
    forwards = {}
    for engine in ENGINES:
        start = time.perf_counter()
        forwards[engine] = fast_forward(model, task, engine, args.threads)
        prepared = time.perf_counter() - start
        evaluate(forwards[engine], task, Held([data[0]]), num_workers=0)
    for _ in range(args.turns):
        for engine in ENGINES:
            start = time.perf_counter()
            scores[engine] = evaluate(forwards[engine], task, data, batch_size=8, num_workers=0).score
            seconds[engine].append(time.perf_counter() - start)
    eager, fast = (statistics.median(seconds[name]) / len(data) * 1000 for name in ENGINES)
    return {
        **{"model": name, "eager_ms": eager, "engine_ms": fast, "speedup": eager / fast, "prepare_s": prepared},
        "difference": abs(scores["paddle"] - scores["onnxruntime"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["unet", "fast_scnn", "bisenetv2"])
    parser.add_argument("--config", default="configs/fashion/fastscnn_fashion5_128x128.yml", help="of the data")
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save", type=Path, default=Path("output/val_engine.json"))
    args = parser.parse_args()
    set_threads(args.threads)
    task = build_task(configs.load_config(args.config, [f"val_dataset.num_samples={args.images}"]))
    dataset = task.val_dataset()
    data = Held([dataset[index] for index in range(len(dataset))])
    rows = []
    table = Table("model", "Paddle, eager", "ONNX Runtime", "speed-up", "writing it once", "difference of mIoU")
    for name in args.models:
        row = compare(name, task, data, args)
        rows.append(row)
        write_json(args.save, rows)
        times = [f"{row[key]:.1f} ms an image" for key in ("eager_ms", "engine_ms")]
        table.add_row(name, *times, f"{row['speedup']:.2f}x", f"{row['prepare_s']:.1f} s", f"{row['difference']:.1e}")
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
