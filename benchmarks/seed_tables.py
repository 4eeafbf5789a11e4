"""The two speed tables of PaddleSeg's slim tutorials, on the engines of this machine.

Pruning: Fast-SCNN, FCN-HRNet-W18 and UNet at 0.1, 0.2 and 0.3 of the FLOPs removed. Quantization: DeepLabV3,
DeepLabV3+, GCNet and PSPNet with ResNet-50. Random weights: latency only. The tutorials' input is 1024x2048, 10 warm-up
runs, 50 that count:

    python benchmarks/seed_tables.py --height 1024 --width 2048 --engine tensorrt --device gpu --target tensorrt

A size that fits a small CPU: ``--height 256 --width 512 --repeats 20``. With ``--folder`` the models are kept there
and taken from there; ``--prepare`` only makes them, so that a quiet machine has nothing to do but measure; results of
further ``--models`` are added to the output.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle.static import InputSpec
from rich.console import Console

from paddleseg_slim.deploy.benchmark import Candidate, measure
from paddleseg_slim.deploy.executor import executor
from paddleseg_slim.deploy.head import with_head
from paddleseg_slim.deploy.onnx import write_onnx
from paddleseg_slim.deploy.runtimes import RuntimeOptions
from paddleseg_slim.files import write_json
from paddleseg_slim.graph import GraphLayer, capture, export_inference
from paddleseg_slim.models.zoo import build
from paddleseg_slim.prune.channels import find_groups
from paddleseg_slim.prune.plan import Goal, prune_to
from paddleseg_slim.prune.ranking import ranking_curves, scores
from paddleseg_slim.quant.ptq import QuantSettings, post_quantize

PRUNED = ("fast_scnn", "fcn_hrnet_w18", "unet")
QUANTIZED = ("deeplabv3_resnet50", "deeplabv3p_resnet50", "gcnet_resnet50", "pspnet_resnet50")
RATIOS = (0.1, 0.2, 0.3)
CLASSES = 19


def first(outputs: Any) -> Any:
    """The main logits."""
    return outputs[0]


def dense(name: str, size: tuple[int, int]) -> GraphLayer:
    """A model of the zoo with random weights, as a graph."""
    paddle.seed(0)
    model = capture(build(name, CLASSES), [InputSpec([None, 3, *size], "float32", "x")], fixed_size=size)
    model.eval()
    return model


def pruned(model: GraphLayer, ratio: float, size: tuple[int, int]) -> GraphLayer:
    """``ratio`` of the FLOPs removed, channels ranked by their weights."""
    groups = find_groups(model, size, first)
    importance = scores(groups, "l1_norm")
    curves = ranking_curves(groups, importance, "l1_norm")
    return prune_to(groups, curves, importance, Goal(flops_removed=ratio, align=8)).model


def quantized(model: GraphLayer, size: tuple[int, int], target: str) -> GraphLayer:
    """int8, calibrated on random images."""
    images = np.random.default_rng(0).normal(size=(2, 1, 3, *size)).astype("float32")
    return post_quantize(model, images, QuantSettings(target=target), executor("onnxruntime"), (1, 3, *size))[0]


def write(model: GraphLayer, folder: Path) -> Path:
    """Write the model with argmax for every engine."""
    folder.mkdir(parents=True, exist_ok=True)
    model.eval()
    headed = with_head(model, first, "argmax")
    export_inference(headed, folder / "model")
    write_onnx(model, folder / "model.onnx", output_op="argmax", logits=first)
    return folder


def variants(name: str, args: argparse.Namespace, size: tuple[int, int]) -> Iterator[tuple[str, GraphLayer]]:
    """The rows of a model's table."""
    model = dense(name, size)
    yield "float", model
    if name in PRUNED:
        for ratio in args.ratios:
            yield f"pruned {ratio:g}", pruned(model, ratio, size)
    if name in QUANTIZED:
        yield "int8", quantized(model, size, args.target)


def models(name: str, args: argparse.Namespace, folder: Path) -> dict[str, Path]:
    """The exported rows of a model's table by name, made or found in ``folder``."""
    place = folder / f"{name}_{args.height}x{args.width}"
    listed = place / "rows.json"
    if not listed.is_file():
        made = enumerate(variants(name, args, (args.height, args.width)))
        rows = {row: write(model, place / str(number)).name for number, (row, model) in made}
        write_json(listed, rows)
    return {row: place / path for row, path in json.loads(listed.read_text(encoding="utf-8")).items()}


def table(folders: dict[str, Path], args: argparse.Namespace) -> Any:
    """Measure one model's rows in one interleaved run per engine set."""
    options = RuntimeOptions(device=args.device)
    candidates = [Candidate(row, path, engine, options) for engine in args.engine for row, path in folders.items()]
    settings = {"threads": args.threads, "warmup": args.warmup, "repeats": args.repeats, "base": "float"}
    return measure(candidates, input_shape=(1, 3, args.height, args.width), max_repeats=args.max_repeats, **settings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=[*PRUNED, *QUANTIZED], default=[*PRUNED, *QUANTIZED])
    parser.add_argument("--engine", nargs="+", default=["onnxruntime", "openvino"])
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument(
        "--target", default="cpu", help="what int8 is made for: cpu, cpu-vnni, openvino, openvino-vnni, tensorrt"
    )
    parser.add_argument("--ratios", nargs="+", type=float, default=list(RATIOS))
    parser.add_argument("--height", type=int, default=1024)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--warmup", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--max_repeats", type=int, help="go on so long for narrow intervals; default: 4 x --repeats")
    parser.add_argument("--folder", type=Path, help="keep the models there; default: a temporary folder")
    parser.add_argument("--prepare", action="store_true", help="make the models, measure nothing")
    parser.add_argument("--output", type=Path, default=Path("output/seed_tables.json"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        run(args, args.folder or Path(work))


def run(args: argparse.Namespace, folder: Path) -> None:
    """Make and measure the models that were asked for."""
    console = Console(width=150)
    results = json.loads(args.output.read_text(encoding="utf-8")) if args.output.is_file() else {}
    for name in args.models:
        folders = models(name, args, folder)
        if args.prepare:
            continue
        result = table(folders, args)
        console.print(f"[bold]{name}[/bold]")
        console.print(result.table())
        results[name] = result.to_dict()
        write_json(args.output, results)


if __name__ == "__main__":
    main()
