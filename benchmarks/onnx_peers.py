"""Our ONNX files against those of paddle2onnx, in ONNX Runtime and OpenVINO: time of ours / time of theirs.

    python benchmarks/onnx_peers.py write --folder output/peers --peer_python .venv-peer/bin/python
    python benchmarks/onnx_peers.py measure --folder output/peers

``write`` exports each model to Paddle Inference and lets paddle2onnx (``pip install paddle2onnx`` in an environment of
its own) convert that; our file is written from the graph. Both have the same fixed input size, which paddle2onnx needs
for adaptive pooling. ``measure`` compares outputs, then times both files in turns. Random weights: latency only.
"""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from paddleseg_slim.cli import bench
from paddleseg_slim.deploy.benchmark import Candidate, measure
from paddleseg_slim.deploy.runtimes import RuntimeOptions, load
from paddleseg_slim.files import write_json

MODELS = (
    *(
        "fast_scnn",
        "pp_humanseg_lite",
        "bisenetv2",
        "pp_liteseg_stdc1",
        "segformer_b0",
        "fcn_hrnet_w18_small",
        "hardnet",
    ),
    *("unet", "deeplabv3_resnet18", "deeplabv3p_resnet18"),
)
ENGINES = ("onnxruntime", "openvino")
CLASSES = 19
CONVERT = "import sys, paddle2onnx; paddle2onnx.export(sys.argv[1], sys.argv[2], sys.argv[3], opset_version=17)"


def write(args: argparse.Namespace) -> None:
    """Write ``<model>_ours.onnx`` and ``<model>_peer.onnx``; files that are there stay."""
    import paddle
    from paddle.static import InputSpec

    from paddleseg_slim.deploy.onnx import write_onnx
    from paddleseg_slim.graph import capture, export_inference
    from paddleseg_slim.models.zoo import build

    shape = (1, 3, args.size, args.size)
    for name in args.models:
        ours, peer = paths(args.folder, name)
        if not (ours.is_file() and peer.is_file()):
            paddle.seed(0)
            spec = InputSpec([None, 3, None, None], "float32", "x")
            layer = capture(build(name, CLASSES), [spec], verify=False, fixed_size=args.size)
            layer.eval()
            write_onnx(layer, ours, input_shape=shape)
            program = export_inference(layer, args.folder / name, input_shapes=[shape])
            line = [args.peer_python, "-c", CONVERT, *map(str, program[:2]), str(peer)]
            done = subprocess.run(line, capture_output=True, text=True, timeout=600)
            if not peer.is_file():
                print(f"{name}: paddle2onnx ended with {done.returncode}: {(done.stderr or done.stdout)[-200:]}")
                continue
        print(f"{name}: written", flush=True)


def paths(folder: Path, name: str) -> tuple[Path, Path]:
    """Our file and that of paddle2onnx."""
    return folder / f"{name}_ours.onnx", folder / f"{name}_peer.onnx"


def compare(args: argparse.Namespace, name: str) -> dict[str, Any]:
    """One model: largest difference of the outputs, and the ratios."""
    ours, peer = paths(args.folder, name)
    shape = (1, 3, args.size, args.size)
    image = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    first, other = (load(path, "onnxruntime", RuntimeOptions(threads=args.threads))(image)[0] for path in (ours, peer))
    candidates = [
        Candidate(kind, path, engine) for engine in ENGINES for kind, path in (("peer", peer), ("ours", ours))
    ]
    result = measure(candidates, input_shape=shape, base="peer", **bench.turns(args))
    row: dict[str, Any] = {"model": name, "difference": float(np.abs(first - other).max() / np.ptp(other))}
    for item in result.rows:
        if item.error or item.name != "ours" or item.comparison is None:
            continue
        ratio, low, high = (1 / value for value in (item.comparison.speedup, item.comparison.high, item.comparison.low))
        row[item.engine] = {"ours_ms": item.median_ms, "ratio": ratio, "low": low, "high": high, "runs": result.runs}
    return row


def show(rows: list[dict[str, Any]]) -> Table:
    """Ratios with their intervals, and their geometric means."""
    table = Table("model", "difference", *(f"{engine}: ours" for engine in ENGINES), *(f"{e}: ratio" for e in ENGINES))
    for row in rows:
        cells = [row.get(engine) for engine in ENGINES]
        times = [f"{cell['ours_ms']:.2f} ms" if cell else "failed" for cell in cells]
        ratios = [
            f"{cell['ratio']:.3f} [{cell['low']:.3f}, {cell['high']:.3f}]" if cell else "failed" for cell in cells
        ]
        table.add_row(row["model"], f"{row['difference']:.0e}", *times, *ratios)
    means = []
    for engine in ENGINES:
        ratios_of = [row[engine]["ratio"] for row in rows if engine in row]
        means.append(f"{np.exp(np.mean(np.log(ratios_of))):.3f}" if ratios_of else "-")
    table.add_row("geometric mean", "", "", "", *means)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("write", "measure"))
    parser.add_argument("--folder", type=Path, default=Path("output/peers"))
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--size", type=int, default=256)
    bench.add_turns(parser)
    parser.set_defaults(repeats=40, max_repeats=120, block=2, interval=0.04)
    parser.add_argument("--peer_python", default="python", help="interpreter that has paddle2onnx")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    if args.what == "write":
        write(args)
        return
    rows = []
    for name in args.models:
        if all(path.is_file() for path in paths(args.folder, name)):
            rows.append(compare(args, name))
            write_json(args.folder / "peers.json", rows)
    Console(width=140).print(show(rows))


if __name__ == "__main__":
    main()
