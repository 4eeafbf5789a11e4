"""Sensitivity analysis against brute force: the same points, the same executor, in one run.

Brute force is one full evaluation of the gated model a point, as `val` does it: images are read by a thread beside,
the engine has all threads. It is run for a sample of the points, spread over the groups; time a point is compared, and
the metric of every sampled point. The time that it would take with all images in memory is printed as well. What brute
force needs to prepare is not counted, what the analysis needs is. `fast` and `taylor` are compared with `exact` by
time, by the work they do (full runs of the model for one image, by multiply-accumulates) and by rank correlation over
the groups at each ratio.

    python benchmarks/prune_sensitivity.py --config X.yml --model_path Y.pdparams --images 200 --json out.json
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from scipy.stats import spearmanr

from paddleseg_slim import config as configs
from paddleseg_slim.cli.subset import evenly_spread
from paddleseg_slim.deploy.executor import executor
from paddleseg_slim.deploy.runtimes.machine import describe_machine
from paddleseg_slim.files import write_json
from paddleseg_slim.graph import Executor, GraphLayer, capture, load
from paddleseg_slim.graph.part import extract
from paddleseg_slim.prune.channels import ChannelGroups, find_groups
from paddleseg_slim.prune.criteria import keep_best
from paddleseg_slim.prune.curves import Curves
from paddleseg_slim.prune.gates import insert_gates
from paddleseg_slim.prune.ranking import scores
from paddleseg_slim.prune.sensitivity import EXACT_RATIOS, FAST_IMAGES, FAST_RATIOS, TOGETHER, Data, analyse
from paddleseg_slim.prune.tails import find_tails, input_shapes
from paddleseg_slim.prune.taylor import TAYLOR_IMAGES, gate_gradients, taylor_curves
from paddleseg_slim.tasks import build_task
from paddleseg_slim.train.evaluate import batches
from paddleseg_slim.train.weights import load_weights


def data_of(task: Any, samples: Any, batch_size: int) -> Data:
    def read(start: int) -> Iterator[Any]:
        return islice(batches(samples, batch_size, 1), start, None)

    return Data(read, -(-len(samples) // batch_size), task.accumulator, task.logits, batch_size)


def brute_force(
    groups: ChannelGroups,
    data: Data,
    engine: Executor,
    importance: dict[str, np.ndarray],
    points: list[tuple[str, int]],
    sized: bool,
) -> tuple[dict[tuple[str, int], float], np.ndarray]:
    """Metric of each point by a full evaluation; the seconds that all took, those after reading, those of the CPU.

    ``sized``: the engine is told the size of the images, as the analysis tells it; an evaluation leaves it open.
    """
    found, seconds = {}, np.zeros(3)
    tensors = dict(groups.model.tensors())
    for name, kept in points:
        gated = insert_gates(groups, [name])
        graph = extract(gated.graph, gated.graph.inputs, [data.outputs(gated.graph.outputs)])
        used = {n: tensors[n] for n in graph.parameters}
        run = engine.prepare(graph, used, input_shapes(groups) if sized else None)
        feeds = gated.feeds(groups.keep({name: keep_best(importance[name], kept)}))
        metric, began, cpu = data.accumulator(), time.perf_counter(), time.process_time()
        for batch in data.batches(0):
            read = time.perf_counter()
            output = run({groups.model.eval_graph.inputs[0].name: np.asarray(batch["img"]), **feeds})
            metric.update(next(iter(output.values())), batch)
            seconds[1] += time.perf_counter() - read
        seconds += time.perf_counter() - began, 0.0, time.process_time() - cpu
        found[name, kept] = metric.result().score
    return found, seconds


def image_runs(groups: ChannelGroups, data: Data, points: list[tuple[str, int]], images: int) -> float:
    """Full runs of the model for one image that measuring ``points`` is worth, by multiply-accumulates."""
    tails = {tail.group: tail for tail in find_tails(groups, {name for name, _ in points}, data.outputs)}
    macs = sum(tails[name].macs for name, _ in points) + sum(tail.leaving_macs for tail in tails.values())
    return images * (1 + macs / groups.macs(groups.widths))


def correlation(exact: Curves, other: Curves) -> dict[str, float]:
    """Spearman over the groups at each ratio; the other's curves are read at the same widths."""
    result = {}
    for ratio in EXACT_RATIOS:
        pairs = []
        for name, curve in exact.groups.items():
            kept = max(1, round(curve.width * (1 - ratio)))
            if kept in curve.kept and name in other.groups:
                pairs.append((curve.losses[curve.kept.index(kept)], other.groups[name].loss_at(np.array([kept]))[0]))
        result[f"{ratio:.1f}"] = float(spearmanr(*zip(*pairs)).statistic)
    return result


def model_of(args: argparse.Namespace, task: Any) -> GraphLayer:
    if (Path(args.model_path) / "graph.json").is_file():
        return load(args.model_path)
    model = task.build_model()
    load_weights(model, args.model_path)
    return capture(model, task.input_spec())


@dataclass
class Clock:
    """Seconds of wall clock and of the CPU by name."""

    seconds: dict[str, float] = field(default_factory=dict)
    cpu_seconds: dict[str, float] = field(default_factory=dict)

    def measured(self, name: str, action: Callable[[], Curves]) -> Curves:
        """The result of ``action``, whose time is kept and printed."""
        began, cpu = time.perf_counter(), time.process_time()
        result = action()
        self.seconds[name], self.cpu_seconds[name] = time.perf_counter() - began, time.process_time() - cpu
        print(f"{name}: {self.seconds[name]:.2f} s", flush=True)
        return result


@dataclass(frozen=True)
class Subject:
    """What is analysed, and with what.

    Attributes:
        task: of the config.
        groups: of the model.
        importance: of their channels.
        images: how many `exact` and brute force look at.
        batch_size: of brute force.
        sized: whether brute force knows the size of the images.
        engine: of brute force, with all threads; ``alone`` has one of them for each of the ``workers``.
    """

    task: Any
    groups: ChannelGroups
    importance: dict[str, np.ndarray]
    images: int
    batch_size: int
    sized: bool
    engine: Executor
    alone: Executor
    workers: int

    @classmethod
    def of(cls, args: argparse.Namespace) -> Subject:
        task = build_task(configs.load_config(args.config))
        samples = evenly_spread(task.val_dataset(), args.images)
        height, width = samples[0]["img"].shape[-2:]
        groups = find_groups(model_of(args, task), (height, width), task.logits)
        engine, alone, workers = executor(args.engine, args.threads), executor(args.engine, 1), args.threads
        if args.engine == "paddle":
            alone, workers = engine, 1
        importance = scores(groups, "l1_norm")
        return cls(task, groups, importance, len(samples), args.batch_size, args.sized, engine, alone, workers)

    def data(self, count: int, batch_size: int = TOGETHER) -> Data:
        """``count`` images of the validation set in batches."""
        return data_of(self.task, evenly_spread(self.task.val_dataset(), count), batch_size)

    def taylor(self) -> Curves:
        few = evenly_spread(self.task.val_dataset(), TAYLOR_IMAGES)
        images = (few[i]["img"][None] for i in range(len(few)))
        return taylor_curves(self.groups, gate_gradients(self.groups, images, self.task.logits), self.importance)

    def measured(self, mode: str, images: int, ratios: tuple[float, ...]) -> Curves:
        data = self.data(images)
        return analyse(
            self.groups, self.importance, data, self.alone, mode=mode, ratios=ratios, workers=self.workers
        )  # fmt: skip


@dataclass(frozen=True)
class Brute:
    """Brute force at some points, and the seconds that all points would have taken.

    Attributes:
        gap: largest difference of the metric to that of ``exact``.
        seconds: of wall clock; ``in_memory`` without reading images; ``cpu_seconds`` of all threads.
    """

    gap: float
    seconds: float
    in_memory: float
    cpu_seconds: float


def points_of(curves: Curves) -> list[tuple[str, int]]:
    """Every (group, channels kept) that was measured."""
    return [(name, kept) for name, curve in curves.groups.items() for kept in curve.kept]


def compared(subject: Subject, exact: Curves, count: int) -> Brute:
    """Brute force at ``count`` points against ``exact``."""
    every = points_of(exact)
    sample = [every[i] for i in np.unique(np.linspace(0, len(every) - 1, count).astype(int))]
    found, spent = brute_force(
        subject.groups,
        subject.data(subject.images, subject.batch_size),
        subject.engine,
        subject.importance,
        sample,
        subject.sized,
    )  # fmt: skip
    gaps = []
    for (name, kept), score in found.items():
        curve = exact.groups[name]
        gaps.append(abs(exact.baseline * (1 - curve.losses[curve.kept.index(kept)]) - score))
    seconds, in_memory, cpu_seconds = (float(value) * len(every) / len(sample) for value in spent)
    return Brute(max(gaps), seconds, in_memory, cpu_seconds)


def report(subject: Subject, clock: Clock, curves: dict[str, Curves], brute: Brute) -> dict[str, Any]:
    """What is printed and written."""
    exact, fast = curves["exact"], curves["fast"]
    every, whole = points_of(exact), subject.data(subject.images)
    seconds, cpu_seconds = clock.seconds, clock.cpu_seconds
    return {
        "groups": len(exact.groups),
        "points": len(every),
        "baseline": exact.baseline,
        "seconds": {**seconds, "brute": brute.seconds, "brute, images in memory": brute.in_memory},
        "CPU seconds": {**cpu_seconds, "brute": brute.cpu_seconds},
        "speedup": {name: brute.seconds / value for name, value in seconds.items()},
        "speedup, images in memory": {name: brute.in_memory / value for name, value in seconds.items()},
        "speedup, CPU seconds": {name: brute.cpu_seconds / value for name, value in cpu_seconds.items()},
        "image runs": {
            "brute": len(every) * subject.images,
            "exact": image_runs(subject.groups, whole, every, subject.images),
            "fast": image_runs(subject.groups, whole, points_of(fast), fast.images),
            "taylor": f"{TAYLOR_IMAGES}, and as many backward",
        },
        "largest gap": brute.gap,
        "spearman": {name: correlation(exact, curves[name]) for name in ("fast", "taylor")},
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True)
    parser.add_argument("--model_path", required=True)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--brute", type=int, default=24, help="points measured by brute force")
    parser.add_argument("--sized", action="store_true", help="tell brute force the size of the images as well")
    parser.add_argument("--engine", default="onnxruntime", choices=("onnxruntime", "paddle"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    subject, clock = Subject.of(args), Clock()
    curves = {
        "taylor": clock.measured("taylor", subject.taylor),
        "fast": clock.measured("fast", lambda: subject.measured("fast", FAST_IMAGES, FAST_RATIOS)),
        "exact": clock.measured("exact", lambda: subject.measured("exact", args.images, EXACT_RATIOS)),
    }
    brute = compared(subject, curves["exact"], args.brute)
    settings = {"machine": describe_machine(), "engine": args.engine, "threads": args.threads, "images": subject.images}
    result = {**settings, **report(subject, clock, curves, brute)}
    for key, value in result.items():
        print(f"{key}: {value}")
    if args.json:
        write_json(args.json, result)


if __name__ == "__main__":
    main()
