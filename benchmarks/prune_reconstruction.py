"""What refitting the layers behind removed channels is worth: the metric directly after pruning, without training.

The model is pruned to each ratio by each criterion, by curves of the fast analysis as the command makes them, and
evaluated on the whole validation set as it was cut and after the least-squares refit (`prune/reconstruct.py`).

    python benchmarks/prune_reconstruction.py --config X.yml --model_path Y.pdparams --json out.json
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from paddleseg_slim import config as configs
from paddleseg_slim.cli.evaluation import best_executor, fast_forward
from paddleseg_slim.cli.prune_steps import CRITERION_IMAGES, reconstruct_layers
from paddleseg_slim.cli.setup import load_model
from paddleseg_slim.cli.subset import evenly_spread
from paddleseg_slim.deploy.runtimes.machine import describe_machine
from paddleseg_slim.files import write_json
from paddleseg_slim.graph import GraphLayer, capture
from paddleseg_slim.prune.channels import ChannelGroups, find_groups
from paddleseg_slim.prune.criteria import needs_gradients
from paddleseg_slim.prune.plan import Goal, prune_to
from paddleseg_slim.prune.ranking import scores
from paddleseg_slim.prune.sensitivity import FAST_IMAGES, FAST_RATIOS, Data, analyse
from paddleseg_slim.prune.taylor import gate_gradients
from paddleseg_slim.tasks import build_task
from paddleseg_slim.train.evaluate import batches, evaluate


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True)
    parser.add_argument("--model_path", required=True)
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.3, 0.5])
    parser.add_argument("--criteria", nargs="+", default=["l1_norm", "taylor"])
    parser.add_argument("--reconstruct_images", type=int, default=64)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json")
    return parser.parse_args()


def importance_of(task: Any, groups: ChannelGroups, criterion: str, seed: int) -> dict[str, Any]:
    """Scores of the channels by a criterion, with the images that the command takes."""
    if not needs_gradients(criterion):
        return scores(groups, criterion, None, seed)
    some = evenly_spread(task.val_dataset(), CRITERION_IMAGES)
    images = (some[i]["img"][None] for i in range(len(some)))
    return scores(groups, criterion, gate_gradients(groups, images, task.logits, seed), seed)


def main() -> None:
    args = arguments()
    task = build_task(configs.load_config(args.config))
    model = load_model(task, args.model_path)
    samples = evenly_spread(task.val_dataset(), FAST_IMAGES)
    height, width = samples[0]["img"].shape[-2:]
    dense = model if isinstance(model, GraphLayer) else capture(model, task.input_spec(), fixed_size=(height, width))
    groups = find_groups(dense, (height, width), task.logits)

    def read(start: int) -> Iterator[Any]:
        return islice(batches(samples, args.batch_size, 1), start, None)

    def score(layer: GraphLayer) -> float:
        return float(evaluate(fast_forward(layer, task, threads=args.threads), task).score)

    data = Data(read, -(-len(samples) // args.batch_size), task.accumulator, task.logits)
    unpruned = score(dense)
    rows: list[dict[str, Any]] = [{"criterion": "", "ratio": 0.0, "cut": unpruned, "refitted": unpruned}]
    for criterion in args.criteria:
        importance = importance_of(task, groups, criterion, args.seed)
        engine = best_executor(threads=args.threads)
        curves = analyse(groups, importance, data, engine, mode="fast", ratios=FAST_RATIOS)
        for ratio in args.ratios:
            pruned = prune_to(groups, curves, importance, Goal(flops_removed=ratio))
            row = {"criterion": criterion, "ratio": ratio, "cut": score(pruned.model)}
            reconstruct_layers(args, task, pruned.model, dense)
            rows.append({**row, "refitted": score(pruned.model)})
            print(rows[-1], flush=True)
    for row in rows:
        print("| {criterion} | {ratio:.2f} | {cut:.4f} | {refitted:.4f} |".format(**row))
    if args.json:
        write_json(args.json, {"machine": describe_machine(), "config": args.config, "rows": rows})


if __name__ == "__main__":
    main()
