"""Sensitivity analysis against brute force: the same points, the same executor, in one run.

Brute force is one full evaluation of the gated model a point. It is run for a sample of the points, spread over the
groups; time a point is compared, and the metric of every sampled point. `fast` and `taylor` are compared with `exact`
by time and by rank correlation over the groups at each ratio.

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
from paddleseg_slim.cli.prune_steps import SUBSET, Subset
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
from paddleseg_slim.prune.sensitivity import EXACT_RATIOS, FAST_RATIOS, Data, analyse
from paddleseg_slim.prune.taylor import gate_gradients, taylor_curves
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
) -> tuple[dict[tuple[str, int], float], float]:
    """Metric of each point by a full evaluation, and the seconds that all took (preparing is not counted)."""
    found, seconds = {}, 0.0
    tensors = dict(groups.model.tensors())
    for name, kept in points:
        gated = insert_gates(groups, [name])
        graph = extract(gated.graph, gated.graph.inputs, [data.outputs(gated.graph.outputs)])
        run = engine.prepare(graph, {n: tensors[n] for n in graph.parameters})
        feeds = gated.feeds(groups.keep({name: keep_best(importance[name], kept)}))
        metric, began = data.accumulator(), time.perf_counter()
        for batch in data.batches(0):
            output = run({groups.model.eval_graph.inputs[0].name: np.asarray(batch["img"]), **feeds})
            metric.update(next(iter(output.values())), batch)
        seconds += time.perf_counter() - began
        found[name, kept] = metric.result().score
    return found, seconds


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
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--json")
    args = parser.parse_args()
    task = build_task(configs.load_config(args.config))
    samples = Subset(task.val_dataset(), args.images)
    height, width = samples[0]["img"].shape[-2:]
    groups = find_groups(model_of(args, task), (height, width), task.logits)
    importance, engine = scores(groups, "l1_norm"), executor(args.engine, args.threads)
    timed = {}

    def measured(name: str, action: Any) -> Any:
        began = time.perf_counter()
        result = action()
        timed[name] = time.perf_counter() - began
        print(f"{name}: {timed[name]:.1f} s", flush=True)
        return result

    whole, part = data_of(task, samples, args.batch_size), Subset(task.val_dataset(), SUBSET)
    exact = measured("exact", lambda: analyse(groups, importance, whole, engine, ratios=EXACT_RATIOS))
    every = [(name, kept) for name, curve in exact.groups.items() for kept in curve.kept]
    sample = [every[i] for i in np.unique(np.linspace(0, len(every) - 1, args.brute).astype(int))]
    brute, seconds = brute_force(groups, whole, engine, importance, sample)
    timed["brute_point"] = seconds / len(sample)
    gaps = []
    for (name, kept), score in brute.items():
        curve = exact.groups[name]
        gaps.append(abs(exact.baseline * (1 - curve.losses[curve.kept.index(kept)]) - score))
    small = data_of(task, part, args.batch_size)
    fast = measured("fast", lambda: analyse(groups, importance, small, engine, mode="fast", ratios=FAST_RATIOS))
    gradients = measured(
        "taylor", lambda: gate_gradients(groups, (part[i]["img"][None] for i in range(len(part))), task.logits)
    )
    taylor = taylor_curves(groups, gradients, importance)
    all_brute = timed["brute_point"] * len(every)
    result = {
        "machine": describe_machine(),
        "engine": args.engine,
        "images": len(samples),
        "groups": len(exact.groups),
        "points": len(every),
        "baseline": exact.baseline,
        "seconds": {**timed, "brute_all": all_brute},
        "speedup": {name: all_brute / timed[name] for name in ("exact", "fast", "taylor")},
        "largest_gap": max(gaps),
        "spearman": {"fast": correlation(exact, fast), "taylor": correlation(exact, taylor)},
    }
    for key in ("groups", "points", "baseline", "seconds", "speedup", "largest_gap", "spearman"):
        print(key, result[key])
    if args.json:
        write_json(args.json, result)


if __name__ == "__main__":
    main()
