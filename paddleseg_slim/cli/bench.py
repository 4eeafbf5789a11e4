"""Measure the latency of exported models in inference engines."""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paddleseg_slim.cli import arguments
from paddleseg_slim.errors import GoalNotMet, SlimError, UserError

if TYPE_CHECKING:
    import numpy as np

    from paddleseg_slim.deploy.benchmark import BenchResult, Candidate

HELP = "measure the latency of exported models in the engines that are installed"
PRESETS = {"tutorial": (1, 3, 1024, 2048)}
"""Input shapes by name: ``tutorial`` is that of PaddleSeg's tables."""

_TURNS = ("threads", "warmup", "repeats", "max_repeats", "block", "interval", "seed")


class MeasurementFailed(SlimError):
    """A candidate could not be measured; the others were. Exit code 1."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of ``bench``."""
    parser.add_argument("models", nargs="+", metavar="[NAME=]PATH", help="exported model: a file or a folder")
    parser.add_argument("--engine", nargs="+", metavar="ENGINE", help="paddle, onnxruntime, openvino, tensorrt; "
                        "default: all installed ones that read the model")  # fmt: skip
    parser.add_argument("--precision", nargs="+", default=["fp32"], metavar="P", help="fp32, bf16, fp16, int8")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--use_trt", action="store_true", help="TensorRT inside paddle and onnxruntime (GPU)")
    parser.add_argument("--input_shape", nargs="+", type=int, metavar="N", help="N C H W, or H W")
    parser.add_argument("--preset", choices=sorted(PRESETS), help="input shape by name: tutorial is 1x3x1024x2048")
    parser.add_argument("--batch", type=int, metavar="N", help="batch size, instead of that of the input shape")
    add_turns(parser)
    parser.add_argument("--base", metavar="NAME", help="what ratios are against; default: the first model")
    parser.add_argument(
        "--images", metavar="DIR", help="pictures, prepared by the models' deploy.yaml; default: random numbers"
    )
    parser.add_argument("--save_dir", metavar="DIR", help="write benchmark.json, benchmark.png and stage.json there")
    parser.add_argument("--require-speedup", "--require_speedup", type=float, metavar="X",
                        help="exit 3 unless every model is at least X times as fast as the base")  # fmt: skip


def add_turns(parser: argparse.ArgumentParser) -> None:
    """Flags on how often and in which turns models run, for this command and for benchmarks with other candidates."""
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="CPU threads; default: the physical cores")
    parser.add_argument("--warmup", type=int, default=10, metavar="N", help="runs before the first that counts")
    parser.add_argument("--repeats", type=int, default=50, metavar="N", help="runs that count, at least")
    parser.add_argument("--max_repeats", type=int, metavar="N", help="runs at most; default: 4 x --repeats")
    parser.add_argument("--block", type=int, default=5, metavar="N", help="runs in a row before the next model's turn")
    parser.add_argument("--interval", type=float, default=0.1, metavar="W",
                        help="go on (to --max_repeats) until the intervals are this narrow")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of the random input and the order of turns")


def turns(args: argparse.Namespace) -> dict[str, Any]:
    """The flags of `add_turns` as arguments of `deploy.benchmark.measure`.

    Raises:
        UserError: there are to be fewer runs at most than at least.
    """
    if args.max_repeats is not None and args.max_repeats < args.repeats:
        raise UserError(f"--max_repeats is {args.max_repeats}, --repeats {args.repeats}.", "Give it as many or more.")
    return {name: getattr(args, name) for name in _TURNS}


def run(args: argparse.Namespace) -> int:
    """Measure; see `add_arguments`."""
    from rich.console import Console
    from rich.progress import Progress

    from paddleseg_slim.deploy.benchmark import measure

    started = time.monotonic()
    arguments.at_least(args, batch=1, seed=0, interval=0)
    repetitions = turns(args)
    if args.require_speedup is not None and args.require_speedup <= 0:
        raise UserError(f"--require-speedup is {args.require_speedup}.", "Give a positive number.")
    if args.require_speedup is not None and len(args.models) < 2:
        raise UserError("--require-speedup compares, but there is one model.", "Give the base as well.")
    if args.save_dir:
        arguments.check_stage_folder(args.save_dir, "bench")
    with tempfile.TemporaryDirectory() as work:
        candidates = _candidates(args, Path(work))
        shape = _input_shape(args, candidates)
        images = _images(args, shape)
        with Progress(transient=True, disable=not sys.stderr.isatty()) as progress:
            bar = progress.add_task("measuring", total=None)
            result = measure(
                candidates,
                input_shape=shape,
                base=args.base,
                images=images,
                data=args.images or "random",
                **repetitions,
                progress=lambda done, total: progress.update(bar, completed=done, total=total),
            )
    console = Console(width=None if sys.stdout.isatty() else 180)
    console.print(result.table())
    for note in _notes(result):
        console.print(note, highlight=False)
    if args.save_dir:
        _save(args, result, time.monotonic() - started)
    _require(args, result)
    return 0


def _candidates(args: argparse.Namespace, work: Path) -> list[Candidate]:
    """Models x engines x precisions; engines that nobody named and that cannot run a model are left out."""
    from paddleseg_slim.deploy.benchmark import Candidate
    from paddleseg_slim.deploy.prepare import model_file
    from paddleseg_slim.deploy.runtimes import RuntimeOptions, available_engines, require_engine

    engines = args.engine or available_engines()
    for engine in engines:
        require_engine(engine)
    found = []
    for index, text in enumerate(args.models):
        name, path = arguments.named(text)
        for engine in engines:
            try:
                file = model_file(path, engine, work / f"{index}_{engine}")
            except UserError:
                if args.engine or not Path(path).exists():
                    raise
                continue
            for precision in args.precision:
                options = RuntimeOptions(device=args.device, precision=precision, use_trt=args.use_trt)
                found.append(Candidate(name, file, engine, options))
    if not found:
        raise UserError(f"No engine installed here runs {args.models[0]}.", "Install one, or export the model.")
    return found


def _input_shape(args: argparse.Namespace, candidates: Sequence[Candidate]) -> tuple[int, ...]:
    """By ``--input_shape``, ``--preset``, what the first model says of itself, else 1x3x512x512."""
    from paddleseg_slim.deploy.description import default_shape

    if args.input_shape and args.preset:
        raise UserError("--input_shape and --preset are both given.", "Give one of them.")
    given: Sequence[int] = args.input_shape or PRESETS.get(args.preset, ())
    arguments.check_shape(given)
    if len(given) == 2:
        given = (1, 3, *given)
    name, source = arguments.named(args.models[0])
    files = [Path(candidate.path) for candidate in candidates if candidate.name == name]
    file = next((file for file in files if file.suffix == ".onnx"), None)
    shape = tuple(given) or default_shape(source, file)
    return (args.batch, *shape[1:]) if args.batch else shape


def _images(args: argparse.Namespace, shape: tuple[int, ...]) -> list[np.ndarray] | None:
    """Batches of the pictures of ``--images``, prepared as the model wants them; at most 32 pictures."""
    if not args.images:
        return None
    import cv2
    import numpy as np

    from paddleseg_slim.cli.predict import find_pictures
    from paddleseg_slim.data.image import read_image

    batch, channels, height, width = shape
    prepare = _preprocessing(args.models)
    arrays = []
    for path, _ in find_pictures(args.images)[:32]:
        array = prepare(read_image(path, channels))
        if array.shape[1:] != (height, width):  # all runs have one size, whatever that of the picture
            planes = [cv2.resize(plane, (width, height), interpolation=cv2.INTER_LINEAR) for plane in array]
            array = np.stack(planes)
        arrays.append(array.astype(np.float32))
    return [
        np.stack([arrays[(start + offset) % len(arrays)] for offset in range(batch)])
        for start in range(0, len(arrays), batch)
    ]


def _preprocessing(models: Sequence[str]) -> Callable[[np.ndarray], np.ndarray]:
    """From a picture uint8 ``[H, W, C]`` to an input ``[C, H, W]``: by the ``deploy.yaml`` beside the models.

    Without one a picture is brought to [-1, 1].

    Raises:
        UserError: the models want different preprocessing.
    """
    from paddleseg_slim.deploy.description import Deploy, read_deploy
    from paddleseg_slim.deploy.infer import preprocessing

    described = {folder: read_deploy(folder)[0] for folder in _described_folders(models)}
    if any(deploy.transforms != next(iter(described.values())).transforms for deploy in described.values()):
        raise UserError(
            f"{' and '.join(map(str, described))} want pictures prepared differently.",
            "Measure them apart, or without --images.",
        )
    half = Deploy(transforms=[{"type": "Normalize", "mean": [0.5], "std": [0.5]}])
    folder, deploy = next(iter(described.items()), (Path(), half))
    transforms = preprocessing(deploy, folder)

    def prepare(picture: np.ndarray) -> np.ndarray:
        array: np.ndarray = transforms({"img": picture, "gt_fields": [], "trans_info": []})["img"]
        return array

    return prepare


def _described_folders(models: Sequence[str]) -> list[Path]:
    from paddleseg_slim.deploy.description import find_description

    described = [find_description(arguments.named(text)[1]) for text in models]
    return list(dict.fromkeys(path.parent for path in described if path is not None))


def _notes(result: BenchResult) -> list[str]:
    """What a reader of the table must know: precision not honoured, convolutions that fell back to float."""
    notes = []
    for row in result.rows:
        notes += [f"{row.label}: {note}" for note in row.info.get("notes", [])]
        if row.info.get("fallbacks"):
            notes.append(f"{row.label}: {row.info['fallbacks']} quantized convolutions run in float.")
    return notes


def _save(args: argparse.Namespace, result: BenchResult, seconds: float) -> None:
    from paddleseg_slim.report import Stage, write_stage
    from paddleseg_slim.report.stage import Latency

    folder = Path(args.save_dir)
    result.save(folder)
    rows = [row for row in result.rows if not row.error]
    stage: dict[str, Any] = {
        "command": shlex.join(["python", *sys.argv]),
        "latency": tuple(Latency.of(row, result.settings, stage=row.name) for row in rows),
        "environment": result.environment,
        "notes": tuple(_notes(result)),
    }
    write_stage(folder, Stage(name=folder.resolve().name, kind="bench", seconds=seconds, **stage))


def _require(args: argparse.Namespace, result: BenchResult) -> None:
    failed = [row for row in result.rows if row.error]
    if failed:
        raise MeasurementFailed(f"{failed[0].label} could not be measured: {failed[0].error}", "See the table above.")
    if args.require_speedup is None:
        return
    from paddleseg_slim.deploy.benchmark.result import NOT_COMPARED

    alone = [row for row in result.rows if result.against(row) == NOT_COMPARED]
    if alone:
        raise UserError(
            f"{alone[0].label} was compared with nothing, --require-speedup cannot be judged.",
            "Give a base that this engine runs, too, or choose the engines by --engine.",
        )
    for row in result.rows:
        if row.comparison and row.comparison.speedup < args.require_speedup:
            raise GoalNotMet(
                f"{row.label} is {row.comparison.speedup:.2f}x as fast as {row.comparison.base}, "
                f"{args.require_speedup}x was asked for.",
                "Prune more, use an engine that gains from it, or lower --require-speedup.",
            )
