"""Does the benchmark agree with itself? The same model twice, twenty times, while another process keeps a core busy.

    python benchmarks/self_agreement.py --model output/quickstart/dense/model.onnx --trials 20

A ratio's 95 % interval should hold 1 in at least 17 of 20 trials and be no wider than 10 %. Prints both and writes all
times as JSON, by which another statistic can be tried on the same measurements.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from paddleseg_slim.cli import bench
from paddleseg_slim.deploy.benchmark import Candidate, measure
from paddleseg_slim.files import write_json

SPIN = "while True: pass"


def trial(args: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Measure the model against itself."""
    result = measure(
        [Candidate(name, args.model, args.engine) for name in ("one", "two")],
        input_shape=args.input_shape,
        **{**bench.turns(args), "seed": seed},
    )
    one, two = result.rows
    if one.error or two.error or two.comparison is None:
        raise SystemExit(one.error or two.error)
    found = two.comparison
    return {
        **{"ratio": found.speedup, "low": found.low, "high": found.high, "runs": result.runs},
        **{"median_ms": one.median_ms, "one": one.times_ms, "two": two.times_ms},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="ONNX file")
    parser.add_argument("--engine", default="onnxruntime")
    parser.add_argument("--input_shape", nargs=4, type=int, default=(1, 3, 256, 256))
    parser.add_argument("--trials", type=int, default=20)
    bench.add_turns(parser)
    parser.set_defaults(threads=1)
    parser.add_argument("--busy", type=int, default=1, help="processes that spin meanwhile")
    parser.add_argument("--save", type=Path, default=Path("output/self_agreement.json"))
    args = parser.parse_args()
    spinning = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(args.busy)]
    rows: list[dict[str, Any]] = []
    try:
        for number in range(args.trials):
            rows.append(trial(args, args.seed + number))
            row = rows[-1]
            print(
                f"{number + 1:2d}: {row['ratio']:.3f} [{row['low']:.3f}, {row['high']:.3f}], {row['runs']} runs of "
                f"{row['median_ms']:.2f} ms, {'holds 1' if row['low'] <= 1 <= row['high'] else 'MISSES 1'}",
                flush=True,
            )
            write_json(args.save, rows)
    finally:
        for process in spinning:
            process.kill()
    held = sum(row["low"] <= 1 <= row["high"] for row in rows)
    widths = [row["high"] - row["low"] for row in rows]
    print(
        f"{held} of {len(rows)} intervals hold 1; width: median {np.median(widths):.3f}, widest {max(widths):.3f}; "
        f"{args.threads} threads, {args.busy} busy processes on {os.cpu_count()} cores."
    )


if __name__ == "__main__":
    main()
