"""What refitting the layers behind removed channels is worth: the metric directly after pruning, without training.

The model is pruned to each ratio by each way to look at its channels, as the command does, and evaluated on the whole
validation set as it was cut and after the least-squares refit (`prune/reconstruct.py`).

    python benchmarks/prune_reconstruction.py --config X.yml --model_path Y.pdparams --json out.json
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from paddleseg_slim import config as configs
from paddleseg_slim.cli import prune
from paddleseg_slim.cli.evaluation import fast_forward
from paddleseg_slim.cli.prune_steps import Analysis
from paddleseg_slim.cli.refit import reconstruct_layers
from paddleseg_slim.cli.setup import load_model
from paddleseg_slim.deploy.runtimes.machine import describe_machine
from paddleseg_slim.files import write_json
from paddleseg_slim.graph import GraphLayer, capture
from paddleseg_slim.prune.channels import find_groups
from paddleseg_slim.prune.plan import Goal, prune_to
from paddleseg_slim.tasks import build_task
from paddleseg_slim.train.evaluate import evaluate


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True)
    parser.add_argument("--model_path", required=True)
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.3, 0.5])
    parser.add_argument(
        "--ways", nargs="+", default=["fast/l1_norm", "fast/taylor", "refit/obs"], help="sensitivity/criterion"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json")
    return parser.parse_args()


def flags_of(args: argparse.Namespace, way: str) -> argparse.Namespace:
    """The prune command's arguments for one way."""
    parser = argparse.ArgumentParser()
    prune.add_arguments(parser)
    sensitivity, criterion = way.split("/")
    given = {"config": args.config, "threads": args.threads, "sensitivity": sensitivity, "criterion": criterion}
    return parser.parse_args(["--retraining_iters=0", *(f"--{name}={value}" for name, value in given.items())])


def main() -> None:
    args = arguments()
    config = configs.load_config(args.config)
    task = build_task(config)
    model = load_model(task, args.model_path)
    height, width = task.val_dataset()[0]["img"].shape[-2:]
    dense = model if isinstance(model, GraphLayer) else capture(model, task.input_spec(), fixed_size=(height, width))
    groups = find_groups(dense, (height, width), task.logits)

    def score(layer: GraphLayer) -> float:
        return float(evaluate(fast_forward(layer, task, threads=args.threads), task).score)

    unpruned = score(dense)
    rows: list[dict[str, Any]] = [{"way": "", "ratio": 0.0, "cut": unpruned, "refitted": unpruned, "seconds": 0.0}]
    for way in args.ways:
        flags, began = flags_of(args, way), time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            importance, curves = Analysis(flags, config, task, Path(folder), groups, args.threads).run()
        seconds = time.perf_counter() - began
        for ratio in args.ratios:
            pruned = prune_to(groups, curves, importance, Goal(flops_removed=ratio))
            row = {"way": way, "ratio": ratio, "cut": score(pruned.model), "seconds": seconds}
            reconstruct_layers(flags, task, pruned.model, dense)
            rows.append({**row, "refitted": score(pruned.model)})
            print(rows[-1], flush=True)
    for row in rows:
        print("| {way} | {ratio:.2f} | {cut:.4f} | {refitted:.4f} | {seconds:.1f} |".format(**row))
    if args.json:
        write_json(args.json, {"machine": describe_machine(), "config": args.config, "rows": rows})


if __name__ == "__main__":
    main()
