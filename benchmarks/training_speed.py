"""Training speed against PaddleSeg 2.8's own loop: same Paddle, model, data, batch, threads; interleaved processes.

    python benchmarks/training_speed.py --config configs/fashion/fastscnn_fashion5_128x128.yml --turns 3 --steps 12

PaddleSeg 2.8 does not run on Paddle 3 as it is: its cross-entropy multiplies a float by an integer mask (a cast is put
in), and its log line indexes a scalar (its log interval is set beyond the end). Data and optimizer come from this
package in both; each loop reads ahead in one thread, as it does by default. Prints a table and writes JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
SIDES = ("ours", "paddleseg")
WARM_UP = 3


class Clock:
    """Wall and CPU seconds at the end of every step."""

    def __init__(self) -> None:
        self.marks: list[tuple[float, float]] = []

    def mark(self) -> None:
        self.marks.append((time.perf_counter(), time.process_time()))

    def steps(self) -> dict[str, list[float]]:
        """Seconds of each step after the warm-up."""
        pairs = list(zip(self.marks, self.marks[1:]))[WARM_UP:]
        return {name: [b[axis] - a[axis] for a, b in pairs] for axis, name in enumerate(("wall", "cpu"))}


def ours(config: Any, task: Any, steps: int, folder: str) -> Clock:
    """Run our loop."""
    from paddleseg_slim.train import optim
    from paddleseg_slim.train.hooks import Hook
    from paddleseg_slim.train.loop import TrainSettings, train

    clock = Clock()

    class Marker(Hook):
        def after_step(self, step: int) -> None:
            clock.mark()

    model = task.build_model()
    optimizer = optim.build_optimizer(config.optimizer, optim.build_schedule(config.lr_scheduler, steps), model)
    settings = TrainSettings(steps, config.batch_size, Path(folder), save_interval=10**6, do_eval=False)
    train(model, task, optimizer, settings, hooks=[Marker()])
    return clock


def paddleseg(config: Any, task: Any, steps: int, folder: str) -> Clock:
    """Run PaddleSeg's loop with PaddleSeg's model and loss."""
    import paddle
    from peers import paddleseg as peer  # type: ignore[attr-defined]  # of tests/, not the folder beside this file
    from peers import paddleseg_component  # type: ignore[attr-defined]

    from paddleseg_slim.train import optim

    loop, losses = peer("paddleseg.core.train"), peer("paddleseg.models.losses")
    ones_like = paddle.ones_like
    paddle.ones_like = lambda x, dtype=None, name=None: ones_like(x, dtype or "float32", name)
    clock, data = Clock(), task.train_dataset()

    class Data(paddle.io.Dataset):
        def __len__(self) -> int:
            return len(data)

        def __getitem__(self, index: int) -> dict[str, Any]:
            sample = data[index]
            return {"img": sample["img"], "label": sample["label"]}

    arguments = {key: value for key, value in config.model.args.items() if key != "num_classes"}
    model = paddleseg_component("MODELS", config.model.type)(num_classes=task.num_classes(), **arguments)
    optimizer = optim.build_optimizer(config.optimizer, optim.build_schedule(config.lr_scheduler, steps), model)
    update = optimizer.step

    def step() -> None:
        update()
        clock.mark()

    optimizer.step = step
    types = [losses.CrossEntropyLoss() for _ in config.loss.coef]
    flops = paddle.flops
    paddle.flops = lambda *args, **options: 0  # at its end it counts FLOPs, which fails and is not training
    try:
        loop.train(
            model,
            Data(),
            optimizer=optimizer,
            save_dir=folder,
            iters=steps,
            batch_size=config.batch_size,
            save_interval=10**6,
            log_iters=10**6,
            losses={"types": types, "coef": list(config.loss.coef)},
        )
    finally:
        paddle.flops = flops
    return clock


def work(args: argparse.Namespace) -> None:
    """Run one side in this process and print its step times as the last line."""
    warnings.filterwarnings("ignore")
    from paddleseg_slim.config import load_config
    from paddleseg_slim.tasks import build_task
    from paddleseg_slim.train.device import set_threads

    set_threads(args.threads)
    config = load_config(args.config)
    side = {"ours": ours, "paddleseg": paddleseg}[args.side]
    with tempfile.TemporaryDirectory() as folder:
        clock = side(config, build_task(config), args.steps + WARM_UP + 1, folder)
    sys.stdout.write("\n" + json.dumps({"batch_size": config.batch_size, **clock.steps()}) + "\n")


def main() -> None:
    """Alternate the two sides and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default=str(ROOT / "configs/fashion/fastscnn_fashion5_128x128.yml"))
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", default="training_speed.json")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        work(args)
        return
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for _ in range(args.turns):
        for side in SIDES:
            same = [f"--{name}={getattr(args, name)}" for name in ("config", "steps", "threads")]
            done = subprocess.run(
                [sys.executable, __file__, "--side", side, *same],
                capture_output=True,
                text=True,
                check=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
            found[side].append(json.loads(done.stdout.splitlines()[-1]))
    report(args, found)


def report(args: argparse.Namespace, found: dict[str, list[dict[str, Any]]]) -> None:
    """Print the table and write the JSON."""
    from rich.console import Console
    from rich.table import Table

    from paddleseg_slim.deploy.runtimes.machine import describe_machine

    medians = {
        (side, kind): statistics.median(value for turn in turns for value in turn[kind])
        for side, turns in found.items()
        for kind in ("wall", "cpu")
    }
    table = Table("loop", "ms a step (wall)", "images/s", "ms a step (CPU time)", title=Path(args.config).stem)
    for side in SIDES:
        wall, cpu = medians[side, "wall"], medians[side, "cpu"]
        table.add_row(side, f"{wall * 1e3:.1f}", f"{found[side][0]['batch_size'] / wall:.2f}", f"{cpu * 1e3:.1f}")
    ratios = {kind: medians["paddleseg", kind] / medians["ours", kind] for kind in ("wall", "cpu")}
    table.add_row("speed-up", f"{ratios['wall']:.3f}", "", f"{ratios['cpu']:.3f}")
    Console().print(table)
    content = {"config": args.config, "threads": args.threads, "ratios": ratios, "turns": found}
    Path(args.json).write_text(
        json.dumps({**content, "machine": describe_machine()}, indent=2) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
