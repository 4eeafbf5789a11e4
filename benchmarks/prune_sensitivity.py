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
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from scipy.stats import spearmanr

from paddleseg_slim import config as configs
from paddleseg_slim.cli.prune_steps import Subset
from paddleseg_slim.deploy.executor import executor
from paddleseg_slim.deploy.runtimes.machine import describe_machine
from paddleseg_slim.files import write_json
from paddleseg_slim.graph import Executor, GraphLayer, PaddleExecutor, capture, load
from paddleseg_slim.graph.part import extract
from paddleseg_slim.prune.channels import ChannelGroups, find_groups
from paddleseg_slim.prune.criteria import keep_best
from paddleseg_slim.prune.curves import Curves
from paddleseg_slim.prune.gates import insert_gates
from paddleseg_slim.prune.ranking import scores
from paddleseg_slim.prune.sensitivity import EXACT_RATIOS, FAST_IMAGES, FAST_RATIOS, Data, analyse
from paddleseg_slim.prune.stages import Stages
from paddleseg_slim.prune.taylor import TAYLOR_IMAGES, gate_gradients, taylor_curves
from paddleseg_slim.tasks import build_task
from paddleseg_slim.train.evaluate import batches
from paddleseg_slim.train.weights import load_weights


def data_of(task: Any, samples: Any, batch_size: int) -> Data:
    def read(start: int) -> Iterator[Any]:
        return islice(batches(samples, batch_size, 1), start, None)

    return Data(read, -(-len(samples) // batch_size), task.accumulator, task.logits)


def brute_force(
    groups: ChannelGroups,
    data: Data,
    engine: Executor,
    importance: dict[str, np.ndarray],
    points: list[tuple[str, int]],
) -> tuple[dict[tuple[str, int], float], np.ndarray]:
    """Metric of each point by a full evaluation; the seconds that all took, those after reading, those of the CPU."""
    found, seconds = {}, np.zeros(3)
    tensors = dict(groups.model.tensors())
    for name, kept in points:
        gated = insert_gates(groups, [name])
        graph = extract(gated.graph, gated.graph.inputs, [data.outputs(gated.graph.outputs)])
        run = engine.prepare(graph, {n: tensors[n] for n in graph.parameters})
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
    stages = Stages(groups, sorted({name for name, _ in points}), PaddleExecutor(), data.outputs)
    return images * (1 + sum(stages.point_macs(name) for name, _ in points) / stages.macs)


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True)
    parser.add_argument("--model_path", required=True)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--brute", type=int, default=24, help="points measured by brute force")
    parser.add_argument("--engine", default="onnxruntime", choices=("onnxruntime", "paddle"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json")
    args = parser.parse_args()
    task = build_task(configs.load_config(args.config))
    samples = Subset(task.val_dataset(), args.images)
    height, width = samples[0]["img"].shape[-2:]
    groups = find_groups(model_of(args, task), (height, width), task.logits)
    importance, engine = scores(groups, "l1_norm"), executor(args.engine, args.threads)
    alone = executor(args.engine, 1) if args.engine == "onnxruntime" else engine
    workers = args.threads if args.engine == "onnxruntime" else 1
    seconds: dict[str, float] = {}
    cpu_seconds: dict[str, float] = {}

    def measured(name: str, action: Any) -> Any:
        began, cpu = time.perf_counter(), time.process_time()
        result = action()
        seconds[name], cpu_seconds[name] = time.perf_counter() - began, time.process_time() - cpu
        print(f"{name}: {seconds[name]:.2f} s", flush=True)
        return result

    def of(count: int) -> Data:
        return data_of(task, Subset(task.val_dataset(), count), args.batch_size)

    whole = data_of(task, samples, args.batch_size)
    few = Subset(task.val_dataset(), TAYLOR_IMAGES)
    taylor = measured(
        "taylor",
        lambda: taylor_curves(
            groups,
            gate_gradients(groups, (few[i]["img"][None] for i in range(len(few))), task.logits),
            importance,
        ),
    )
    fast = measured(
        "fast",
        lambda: analyse(groups, importance, of(FAST_IMAGES), alone, mode="fast", ratios=FAST_RATIOS, workers=workers),
    )
    exact = measured("exact", lambda: analyse(groups, importance, whole, alone, ratios=EXACT_RATIOS, workers=workers))
    every = [(name, kept) for name, curve in exact.groups.items() for kept in curve.kept]
    sample = [every[i] for i in np.unique(np.linspace(0, len(every) - 1, args.brute).astype(int))]
    brute, spent = brute_force(groups, whole, engine, importance, sample)
    gaps = []
    for (name, kept), score in brute.items():
        curve = exact.groups[name]
        gaps.append(abs(exact.baseline * (1 - curve.losses[curve.kept.index(kept)]) - score))
    whole_brute, after, cpu_brute = (float(value) * len(every) / len(sample) for value in spent)
    runs = len(every) * len(samples)
    short = [(name, kept) for name, curve in fast.groups.items() for kept in curve.kept]
    result = {
        "machine": describe_machine(),
        "engine": args.engine,
        "threads": args.threads,
        "images": len(samples),
        "groups": len(exact.groups),
        "points": len(every),
        "baseline": exact.baseline,
        "seconds": {**seconds, "brute": whole_brute, "brute, images in memory": after},
        "CPU seconds": {**cpu_seconds, "brute": cpu_brute},
        "speedup": {name: whole_brute / value for name, value in seconds.items()},
        "speedup, images in memory": {name: after / value for name, value in seconds.items()},
        "speedup, CPU seconds": {name: cpu_brute / value for name, value in cpu_seconds.items()},
        "image runs": {
            "brute": runs,
            "exact": image_runs(groups, whole, every, len(samples)),
            "fast": image_runs(groups, whole, short, fast.images),
            "taylor": f"{len(few)}, and as many backward",
        },
        "largest gap": max(gaps),
        "spearman": {"fast": correlation(exact, fast), "taylor": correlation(exact, taylor)},
    }
    for key, value in result.items():
        print(f"{key}: {value}")
    if args.json:
        write_json(args.json, result)


if __name__ == "__main__":
    main()
