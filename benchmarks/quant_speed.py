"""What quantization costs and brings in time: latency of int8 files, calibration, a training step with quantizers.

    python benchmarks/quant_speed.py latency --models unet bisenetv2 hardnet deeplabv3p_resnet50 pp_liteseg_stdc1
    python benchmarks/quant_speed.py calibration --models unet
    python benchmarks/quant_speed.py training --configs configs/fashion/fastscnn_fashion5_128x128.yml
    python benchmarks/quant_speed.py settings --configs configs/fashion/fastscnn_fashion5_128x128.yml --weights FILE

`latency` compares the float and the int8 file of each model (random weights) in one interleaved run; `calibration` is
the time from a float model in memory to a written int8 file; `training` alternates steps of the float model and of the
model with quantizers, both with the same loss and optimizer; `settings` compares twenty settings, the best one scored
on the validation set, with one calibration and its scoring.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import paddle
from paddle.static import InputSpec
from rich.console import Console
from rich.table import Table

from paddleseg_slim.cli.quant_times import measure_gains, slower
from paddleseg_slim.deploy.benchmark import Candidate, measure
from paddleseg_slim.deploy.executor import executor
from paddleseg_slim.deploy.onnx import write_onnx
from paddleseg_slim.deploy.runtimes.machine import describe_machine
from paddleseg_slim.files import write_json
from paddleseg_slim.graph import GraphLayer, capture
from paddleseg_slim.models.zoo import build
from paddleseg_slim.quant.calibrate import Calibration, with_layers
from paddleseg_slim.quant.profiles import get_profile
from paddleseg_slim.quant.ptq import QuantSettings, post_quantize


def first(outputs: Any) -> Any:
    """The main logits."""
    return outputs[0]


def zoo_model(name: str, size: int) -> GraphLayer:
    """A model with random weights, as a graph."""
    paddle.seed(0)
    model = capture(build(name, 19), [InputSpec([None, 3, size, size], "float32", "x")], fixed_size=(size, size))
    model.eval()
    return model


def images_of(count: int, size: int) -> list[np.ndarray]:
    """Random images in batches of 4."""
    rng = np.random.default_rng(0)
    return [rng.normal(size=(4, 3, size, size)).astype("float32") for _ in range(max(1, count // 4))]


def quantize(model: GraphLayer, args: argparse.Namespace) -> tuple[GraphLayer, Calibration]:
    """int8 by the target's rules."""
    settings = QuantSettings(target=args.target)
    runs_on = executor("onnxruntime", args.threads)
    return post_quantize(model, images_of(args.images, args.size), settings, runs_on, (1, 3, args.size, args.size))


def files(name: str, args: argparse.Namespace) -> Path:
    """The folder with the float and the int8 file of a model."""
    folder = Path(args.work) / f"{name}_{args.size}_{args.target}{'_slow' if args.keep_float_slow else ''}"
    if not (folder / "int8.onnx").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        model = zoo_model(name, args.size)
        write_onnx(model, folder / "float.onnx", output_op="argmax", logits=first)
        layer, seen = quantize(model, args)
        write_onnx(
            layer, folder / "int8.onnx", output_op="argmax", logits=first, **get_profile(args.target).file_options()
        )
        if args.keep_float_slow:
            _without_slow(seen, folder, args)
    return folder


def _without_slow(seen: Calibration, folder: Path, args: argparse.Namespace) -> None:
    """Write the int8 file again without the layers that int8 makes slower, as ``--keep-float slow`` does."""
    both = {"float": folder / "float.onnx", "quantized": folder / "int8.onnx"}
    out = [gain.layer for gain in slower(measure_gains(both, seen.layer, seen.placement, args.engine[0], args.threads))]
    print(f"{folder.name}: float for their time in {args.engine[0]}: {', '.join(out) or 'none'}")
    part = with_layers(seen, [name for name in seen.placement.layers if name not in out])
    print(part.placement.summary())
    write_onnx(
        part.quantized(), both["quantized"], output_op="argmax", logits=first, **get_profile(args.target).file_options()
    )


def latency(args: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Float and int8 files in turns."""
    folders = {name: files(name, args) for name in args.models}
    if args.only_make:
        return {}
    results = {}
    for name, folder in folders.items():
        both = [
            Candidate(kind, folder / f"{kind}.onnx", engine) for engine in args.engine for kind in ("float", "int8")
        ]
        settings = {"threads": args.threads, "warmup": 3, "repeats": args.repeats, "base": "float"}
        result = measure(both, input_shape=(1, 3, args.size, args.size), **settings)
        console.print(f"[bold]{name}[/bold]")
        console.print(result.table())
        results[name] = result.to_dict()
    return results


def calibration(args: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Seconds from the float model in memory to the int8 file."""
    table, results = Table("model", "images", "calibration s", "export s", "all s"), {}
    for name in args.models:
        model = zoo_model(name, args.size)
        began = time.perf_counter()
        layer, _ = quantize(model, args)
        middle = time.perf_counter()
        with tempfile.TemporaryDirectory() as work:
            write_onnx(
                layer,
                Path(work) / "int8.onnx",
                output_op="argmax",
                logits=first,
                **get_profile(args.target).file_options(),
            )
        end = time.perf_counter()
        results[name] = {"calibration_s": middle - began, "export_s": end - middle, "images": args.images}
        table.add_row(name, str(args.images), *(f"{t:.1f}" for t in (middle - began, end - middle, end - began)))
    console.print(table)
    return results


class Stepper:
    """Training steps of one model of a config."""

    def __init__(self, model: GraphLayer, task: Any, batch: dict[str, Any]) -> None:
        self.model, self.task, self.batch = model, task, batch
        self.optimizer = paddle.optimizer.AdamW(1e-5, parameters=model.parameters())
        self.times: list[float] = []

    def step(self) -> None:
        """One step, timed."""
        began = time.perf_counter()
        self.model.train()
        loss = self.task.loss(self.model(self.batch["img"]), self.batch)["loss"]
        loss.backward()
        self.optimizer.step()
        self.optimizer.clear_grad()
        float(loss.item())
        self.times.append(time.perf_counter() - began)


def training(args: argparse.Namespace, console: Console) -> dict[str, Any]:
    """A float step and a step with quantizers, in turns."""
    from quant_reference import Reference

    from paddleseg_slim.quant.qat import Training
    from paddleseg_slim.train.evaluate import batches

    table, results = Table("config", "float ms", "quantized ms", "ratio"), {}
    for config in args.configs:
        reference = Reference.load(config, None, 1)
        batch = next(iter(batches(reference.task.train_dataset(), args.batch_size, 0)))
        tensors = {key: paddle.to_tensor(batch[key]) for key in ("img", "label")}
        runs_on = executor("onnxruntime", args.threads)
        settings = QuantSettings(target=args.target)
        layer, _ = post_quantize(reference.model, reference.calibration(8), settings, runs_on, reference.shape)
        Training(layer, "channel_wise_abs_max", "moving_average_abs_max").begin()
        sides = [Stepper(model, reference.task, tensors) for model in (reference.model, layer)]
        for _ in range(args.repeats):
            for side in sides:
                side.step()
        plain, quantized = (1000 * statistics.median(side.times[2:]) for side in sides)
        results[reference.name] = {"float_ms": plain, "quantized_ms": quantized, "ratio": quantized / plain}
        table.add_row(reference.name, f"{plain:.0f}", f"{quantized:.0f}", f"{quantized / plain:.2f}")
    console.print(table)
    return results


def settings(args: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Twenty settings against one."""
    from quant_reference import Reference

    from paddleseg_slim.deploy.executor import engine_forward
    from paddleseg_slim.quant.compare import compare, twenty
    from paddleseg_slim.train.evaluate import evaluate

    table, results = Table("config", "calibration and scoring s", "twenty settings and scoring s", "ratio"), {}
    for config in args.configs:
        reference = Reference.load(config, args.weights, 1)
        runs_on = executor("onnxruntime", args.threads)
        images = reference.calibration(args.images)
        began = time.perf_counter()
        layer, seen = post_quantize(
            reference.model, images, QuantSettings(target=args.target), runs_on, reference.shape
        )
        calibrated = time.perf_counter()
        evaluate(engine_forward(layer, runs_on), reference.task)
        scored = time.perf_counter()
        rows = compare(seen, twenty(), np.concatenate(images[:2]), reference.task.logits)
        best = seen.quantized(rows[0].choice)
        evaluate(engine_forward(best, runs_on), reference.task)
        end = time.perf_counter()
        one, many = scored - began, calibrated - began + end - scored
        results[reference.name] = {"one_s": one, "twenty_s": many, "ratio": many / one, "best": str(rows[0].choice)}
        table.add_row(reference.name, f"{one:.1f}", f"{many:.1f}", f"{many / one:.2f}")
    console.print(table)
    return results


MEASUREMENTS = {"latency": latency, "calibration": calibration, "training": training, "settings": settings}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=sorted(MEASUREMENTS))
    parser.add_argument("--models", nargs="+", default=["unet"])
    parser.add_argument("--configs", nargs="+", default=[])
    parser.add_argument("--weights", help="of `settings`; default random ones")
    parser.add_argument("--engine", nargs="+", default=["onnxruntime", "openvino"])
    parser.add_argument("--target", default="cpu")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--work", default="output/quant_speed", help="where files are kept between runs")
    parser.add_argument("--keep_float_slow", action="store_true", help="layers float that int8 makes slower")
    parser.add_argument("--only_make", action="store_true", help="write the files of `latency`, measure nothing")
    parser.add_argument("--output", default="output/quant_speed.json")
    args = parser.parse_args()
    results = MEASUREMENTS[args.what](args, Console(width=150))
    write_json(args.output, {"machine": describe_machine(), "settings": vars(args), "results": results})


if __name__ == "__main__":
    main()
