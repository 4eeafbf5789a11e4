"""Accuracy of quantization after training on the test split, measured in ONNX Runtime on the exported files.

For every model: int8 (W8A8; 7-bit weights where the target says so), int8 with reconstruction, and weights of 4 bits
rounded to nearest and reconstructed (coordinate descent, then AdaRound on blocks). Drops are in points of 100 against
the float file in the same engine, with 95 % intervals of a paired bootstrap over the images.

    python benchmarks/ptq_accuracy.py --model CONFIG WEIGHTS [--model CONFIG WEIGHTS ...] --seconds 60
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from pathlib import Path
from typing import Any

from quant_reference import Outcome, Reference, agreement, output_error, paired_drop
from rich.console import Console
from rich.table import Table

from paddleseg_slim.deploy.executor import executor
from paddleseg_slim.deploy.runtimes import RuntimeOptions, load
from paddleseg_slim.files import write_json
from paddleseg_slim.graph import GraphLayer
from paddleseg_slim.quant.profiles import get_profile
from paddleseg_slim.quant.ptq import QuantSettings, post_quantize
from paddleseg_slim.quant.reconstruct import reconstruct

VARIANTS = {
    "int8": (None, False),
    "int8 reconstructed": (None, True),
    "W4A8 nearest": (4, False),
    "W4A8 reconstructed": (4, True),
}
"""Name -> bits of the weights (None: the target's), whether the rounding is reconstructed."""


def quantize(reference: Reference, variant: str, args: argparse.Namespace) -> tuple[GraphLayer, dict[str, Any]]:
    """Quantize the model by the rules of a variant; returns it and what there is to say."""
    bits, chosen = VARIANTS[variant]
    runs_on = executor("onnxruntime", args.threads)
    images = reference.calibration(args.images)
    began = time.perf_counter()
    settings = QuantSettings(target=args.target, weight_bits=bits)
    layer, calibration = post_quantize(reference.model, images, settings, runs_on, reference.shape)
    facts: dict[str, Any] = {"macs_share": calibration.placement.macs_share}
    if chosen:
        more = reference.calibration(args.reconstruction_images, seed=7)
        rounded = get_profile(args.target).bias == "int32"
        report = reconstruct(layer, calibration.layer, more, args.seconds, executor=runs_on, int32_bias=rounded)
        facts["reconstruction"] = report.line()
    return layer, {**facts, "seconds": time.perf_counter() - began}


def rows_of(reference: Reference, args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Measure one model."""
    base = reference.run(reference.write(copy.deepcopy(reference.model), folder / "float.onnx"), threads=args.threads)
    rows = [{"variant": "float", "score": reference.score(base.counts.sum(axis=0))}]
    for variant in args.variants:
        layer, facts = quantize(reference, variant, args)
        path = reference.write(layer, folder / "quantized.onnx", **get_profile(args.target).file_options())
        info = load(path, "onnxruntime", RuntimeOptions(threads=args.threads)).describe()
        outcome: Outcome = reference.run(path, threads=args.threads)
        drop = paired_drop(reference, base, outcome)
        rows.append(
            {
                "variant": variant,
                "score": drop.score,
                "drop": drop.drop,
                "drop_low": drop.low,
                "drop_high": drop.high,
                "output_error": output_error(base, outcome),
                "agreement_with_float": agreement(base, outcome),
                "agreement_with_memory": agreement(reference.run_in_memory(layer, args.memory_images), outcome),
                "integer_convolutions": info.conv_precisions.get("int8", 0),
                "convolutions": sum(info.conv_precisions.values()),
                "bytes_share": path.stat().st_size / (folder / "float.onnx").stat().st_size,
                **facts,
            }
        )
    return rows


def table_of(name: str, rows: list[dict[str, Any]]) -> Table:
    """The rows of one model for a terminal."""
    table = Table(title=name, title_justify="left")
    table.add_column("variant")
    numbers = ("score", "drop", "95 % interval", "output error", "as in memory", "int8 MACs", "int8 convs", "file", "s")
    for column in numbers:
        table.add_column(column, justify="right")
    for row in rows:
        if "drop" not in row:
            table.add_row(row["variant"], f"{row['score']:.2f}")
            continue
        table.add_row(
            row["variant"],
            f"{row['score']:.2f}",
            f"{row['drop']:+.2f}",
            f"[{row['drop_low']:+.2f}, {row['drop_high']:+.2f}]",
            f"{row['output_error']:.4f}",
            f"{row['agreement_with_memory']:.2%}",
            f"{row['macs_share']:.1%}",
            f"{row['integer_convolutions']} of {row['convolutions']}",
            f"{row['bytes_share']:.2f}x",
            f"{row['seconds']:.0f}",
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs=2, action="append", required=True, metavar=("CONFIG", "WEIGHTS"))
    parser.add_argument("--variants", nargs="+", choices=sorted(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--target", default="cpu")
    parser.add_argument("--images", type=int, default=40, help="calibration images")
    parser.add_argument("--reconstruction_images", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=60, help="for one reconstruction")
    parser.add_argument("--test_images", type=int, help="of the test split; default all")
    parser.add_argument("--memory_images", type=int, default=64, help="to compare file and model in memory on")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", default="output/ptq_accuracy.json")
    args = parser.parse_args()
    console, results = Console(width=140), {}
    for config, weights in args.model:
        reference = Reference.load(config, weights, args.test_images)
        with tempfile.TemporaryDirectory() as work:
            rows = rows_of(reference, args, Path(work))
        console.print(table_of(reference.name, rows))
        results[reference.name] = rows
        write_json(args.output, results)


if __name__ == "__main__":
    main()
