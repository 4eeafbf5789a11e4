"""Quantization after training beside NNCF and ONNX Runtime's own: same float ONNX, images, engines.

Ours is made for the engine's own target (`OURS`). For each model: latency in one interleaved run an engine, metric on
the test split, error of the logits against the float file, share of equal classes, and the seconds that the
quantization took, images in memory to file written.
NNCF needs an environment of its own (``pip install nncf onnxruntime``), whose Python is given:

    python benchmarks/peers/ptq_peers.py --model CONFIG WEIGHTS --nncf_python VENV/bin/python

Files are kept in ``--work``; ``--only`` makes them, judges them or times them alone.
"""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from quant_reference import Reference, agreement, output_error, paired_drop
from rich.console import Console
from rich.table import Table

from paddleseg_slim.deploy.benchmark import Candidate, measure
from paddleseg_slim.deploy.executor import executor
from paddleseg_slim.files import write_json
from paddleseg_slim.quant.ptq import QuantSettings, post_quantize

ENGINES = ("onnxruntime", "openvino")
PEER_OF = {"onnxruntime": ("onnxruntime", "quantize_static", "peer.onnx"), "openvino": ("nncf", "NNCF", "peer.xml")}
"""Engine -> name in `ptq_worker`, name in the table, file."""

OURS = {"onnxruntime": "cpu-vnni", "openvino": "openvino-vnni"}
"""Engine -> target that our file for it is made for."""


def make(reference: Reference, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Write the float file, the images, and every quantized file; returns the seconds of each quantization."""
    folder.mkdir(parents=True, exist_ok=True)
    source = reference.write(copy.deepcopy(reference.model), folder / "float.onnx")
    images = np.concatenate(reference.calibration(args.images))
    np.save(folder / "images.npy", images)
    facts: dict[str, Any] = {}
    for engine, (peer, title, file) in PEER_OF.items():
        python = args.nncf_python if peer == "nncf" else sys.executable
        command = [python, str(Path(__file__).with_name("ptq_worker.py")), peer, str(source)]
        done = subprocess.run(
            [*command, str(folder / "images.npy"), str(folder / file)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            facts[title] = {"engine": engine, "error": done.stderr.strip().splitlines()[-1]}
        else:
            facts[title] = {"engine": engine, **json.loads(done.stdout.strip().splitlines()[-1])}
    for engine in ENGINES:
        facts[f"ours@{engine}"] = ours(reference, images, folder / ours_file(engine), OURS[engine], args.threads)
    write_json(folder / "made.json", facts)
    return facts


def ours(reference: Reference, images: np.ndarray, path: Path, target: str, threads: int) -> dict[str, Any]:
    """Quantize with this package for a target."""
    began = time.perf_counter(), time.process_time()
    batches = [images[start : start + 4] for start in range(0, len(images), 4)]
    settings, runs_on = QuantSettings(target=target), executor("onnxruntime", threads)
    layer, calibration = post_quantize(reference.model, batches, settings, runs_on, reference.shape)
    reference.write(layer, path, **calibration.placement.profile.file_options())
    return {
        "seconds": time.perf_counter() - began[0],
        "cpu_seconds": time.process_time() - began[1],
        "macs_share": calibration.placement.macs_share,
        "target": target,
    }


def ours_file(engine: str) -> str:
    """Name of our file for an engine."""
    return f"ours_{engine}.onnx"


def judge(reference: Reference, folder: Path, threads: int) -> dict[str, Any]:
    """Metric and error of every file in its engine, against the float file in the same engine."""
    results: dict[str, Any] = {}
    for engine in ENGINES:
        base = reference.run(folder / "float.onnx", engine, threads)
        for title, file in ((PEER_OF[engine][1], PEER_OF[engine][2]), ("ours", ours_file(engine))):
            if not (folder / file).is_file():
                continue
            outcome = reference.run(folder / file, engine, threads)
            drop = paired_drop(reference, base, outcome)
            row = {"score": drop.score, "drop": drop.drop, "drop_low": drop.low, "drop_high": drop.high}
            error, same = output_error(base, outcome), agreement(base, outcome)
            results[f"{title}@{engine}"] = {**row, "output_error": error, "agreement": same}
    write_json(folder / "judged.json", results)
    return results


def timed(folder: Path, shape: tuple[int, ...], args: argparse.Namespace) -> dict[str, Any]:
    """Latencies of all files, in turns."""
    candidates = []
    for engine in ENGINES:
        peer = PEER_OF[engine]
        for title, file in (("float", "float.onnx"), (peer[1], peer[2]), ("ours", ours_file(engine))):
            if (folder / file).is_file():
                candidates.append(Candidate(title, folder / file, engine))
    settings = {"threads": args.threads, "warmup": 5, "repeats": args.repeats, "base": "ours"}
    result = measure(candidates, input_shape=shape, **settings)
    rows = {f"{row.name}@{row.engine}": row for row in result.rows}
    latency = {
        label: {"ms": row.median_ms, "error": row.error, "ours_to_it": _ratio(rows, label)}
        for label, row in rows.items()
    }
    write_json(folder / "timed.json", latency)
    return latency


def _ratio(rows: dict[str, Any], label: str) -> float | None:
    ours = rows.get(f"ours@{label.split('@')[1]}")
    return None if ours is None or rows[label].error else ours.median_ms / rows[label].median_ms


def table_of(name: str, folder: Path) -> Table:
    """What is known of one model."""
    known = {}
    for part in ("made", "judged", "timed"):
        path = folder / f"{part}.json"
        known[part] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    table = Table(title=name, title_justify="left")
    for column in ("file", "ms", "ours / it", "score", "drop", "output error", "agreement", "seconds"):
        table.add_column(column, justify="left" if column == "file" else "right")
    for label in dict.fromkeys([*known["timed"], *known["judged"]]):
        time_, judged = known["timed"].get(label, {}), known["judged"].get(label, {})
        made = known["made"].get(label) or known["made"].get(label.split("@")[0], {})
        table.add_row(
            label,
            f"{time_['ms']:.2f}" if time_.get("ms") else "",
            f"{time_['ours_to_it']:.3f}" if time_.get("ours_to_it") else "",
            f"{judged['score']:.2f}" if judged else "",
            f"{judged['drop']:+.2f} [{judged['drop_low']:+.2f}, {judged['drop_high']:+.2f}]" if judged else "",
            f"{judged['output_error']:.4f}" if judged else "",
            f"{judged['agreement']:.2%}" if judged else "",
            f"{made['seconds']:.1f} ({made['cpu_seconds']:.1f} CPU)" if "seconds" in made else made.get("error", ""),
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs=2, action="append", required=True, metavar=("CONFIG", "WEIGHTS"))
    parser.add_argument("--nncf_python", default=sys.executable, help="Python of an environment with nncf")
    parser.add_argument("--images", type=int, default=128, help="calibration images")
    parser.add_argument("--test_images", type=int, help="of the test split; default all")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--work", default="output/ptq_peers")
    parser.add_argument("--only", nargs="+", choices=("make", "judge", "time"), default=["make", "judge", "time"])
    args = parser.parse_args()
    for config, weights in args.model:
        name = Path(config).stem
        folder = Path(args.work) / name
        reference = Reference.load(config, weights, args.test_images)
        if "make" in args.only:
            make(reference, folder, args)
        if "judge" in args.only:
            judge(reference, folder, args.threads)
        if "time" in args.only:
            timed(folder, reference.shape, args)
        Console(width=150).print(table_of(name, folder))


if __name__ == "__main__":
    main()
