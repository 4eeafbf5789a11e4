"""Predict pictures or a video with an exported model and its ``deploy.yaml``."""

from __future__ import annotations

import argparse
import csv
import io
import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

import numpy as np

from paddleseg_slim.cli import arguments, runner
from paddleseg_slim.cli.predict import find_pictures
from paddleseg_slim.errors import UserError

if TYPE_CHECKING:
    from paddleseg_slim.deploy.infer import Predictor
    from paddleseg_slim.deploy.runtimes import RuntimeOptions

HELP = "predict pictures or a video with an exported model"
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """PaddleSeg's flags of ``deploy/python/infer.py``, and ``--engine``."""
    parser.add_argument("--config", required=True, metavar="FILE", help="deploy.yaml of the exported model")
    parser.add_argument("--image_path", required=True, metavar="PATH", help="picture, folder, list or video")
    parser.add_argument("--save_dir", default="./output", metavar="DIR", help="default ./output; the mask of "
                        "x.jpg is x.png there, but x.jpg.png beside that of another x")  # fmt: skip
    parser.add_argument("--batch_size", type=int, default=1, metavar="N")
    parser.add_argument("--engine", help="paddle, onnxruntime, openvino, tensorrt; default: what the model is for")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--precision", choices=("fp32", "fp16", "bf16", "int8"), default="fp32")
    parser.add_argument("--cpu_threads", type=int, default=0, metavar="N", help="default: the physical cores")
    arguments.add_boolean(parser, "--enable_mkldnn", "oneDNN on the CPU: always on in the engine paddle", default=None)
    arguments.add_boolean(parser, "--use_trt", "TensorRT inside the engine (GPU)")
    parser.add_argument("--min_subgraph_size", type=int, default=3, metavar="N", help="of TensorRT inside paddle")
    arguments.add_boolean(
        parser, "--enable_auto_tune", "collect the input sizes of the pictures for TensorRT, then stop"
    )
    parser.add_argument("--auto_tuned_shape_file", metavar="FILE", default="auto_tune_tmp.json",
                        help="where --enable_auto_tune writes them and --use_trt reads them")  # fmt: skip
    parser.add_argument("--with_argmax", action="store_true", help="class numbers of logits, which is what is written "
                        "in any case; refused where the model gives none")  # fmt: skip
    arguments.add_boolean(parser, "--benchmark", "10 runs to warm up, then print the time of each stage")
    parser.add_argument("--model_name", default="", metavar="NAME", help="of the model in the line of --benchmark")
    arguments.add_boolean(parser, "--print_detail", "print engine, inputs, outputs and the classes of every picture")
    parser.add_argument("--custom_color", nargs="+", type=int, metavar="V", help="R G B of the first classes")


def run(args: argparse.Namespace) -> int:
    """Predict; see `add_arguments`."""
    from paddleseg_slim.deploy.infer import Predictor
    from paddleseg_slim.train.logging import setup_logging

    setup_logging()
    arguments.at_least(args, batch_size=1, cpu_threads=0, min_subgraph_size=1)
    _check_engine_flags(args)
    source = Path(args.image_path)
    is_video = source.suffix.lower() in VIDEOS
    pictures = [] if is_video else find_pictures(args.image_path)
    folder = arguments.check_folder(args.save_dir)
    if args.enable_auto_tune:
        return _collect_shapes(args, pictures)
    predictor = Predictor(args.config, args.engine, _options(args))
    if args.enable_mkldnn is False and predictor.engine == "paddle" and args.device == "cpu":
        raise arguments.no_onednn("--enable_mkldnn")
    if args.with_argmax and predictor.deploy.task != "segmentation":
        raise UserError("--with_argmax: the model is a classifier.", "Leave it out.")
    if args.print_detail:
        _print_model(predictor)
    if args.benchmark:
        _warm_up(predictor, args, pictures)
    if is_video:
        done = _video(predictor, args, source, folder)
    elif predictor.deploy.task == "segmentation":
        done = _masks(predictor, args, pictures, folder)
    else:
        done = _classes(predictor, args, pictures, folder)
    runner.log("%s", done)
    if args.benchmark:
        _print_benchmark(predictor, args)
    return 0


def _check_engine_flags(args: argparse.Namespace) -> None:
    if args.enable_mkldnn is not None and args.engine not in (None, "paddle"):
        raise UserError(f"--enable_mkldnn is for the engine paddle, not {args.engine}.", "Leave it out.")
    if args.enable_auto_tune and not args.use_trt:
        raise UserError("--enable_auto_tune collects sizes for TensorRT.", "Add --use_trt True --device gpu.")


def _options(args: argparse.Namespace) -> RuntimeOptions:
    from paddleseg_slim.deploy.runtimes import RuntimeOptions

    options = RuntimeOptions(
        device=args.device,
        threads=args.cpu_threads,
        precision=args.precision,
        use_trt=args.use_trt,
        min_subgraph_size=args.min_subgraph_size,
    )
    shapes = Path(args.auto_tuned_shape_file)
    if args.use_trt and shapes.is_file():
        data = json.loads(shapes.read_text(encoding="utf-8"))
        low, best, high = (tuple(data[key]) for key in ("min", "opt", "max"))
        options = replace(options, input_shapes={data["input"]: (low, best, high)})
    return options


def _collect_shapes(args: argparse.Namespace, pictures: list[tuple[Path, PurePath]]) -> int:
    """The smallest, median and largest input of the pictures, for TensorRT's optimisation profile."""
    from paddleseg_slim.data.image import read_image
    from paddleseg_slim.deploy.infer import Predictor
    from paddleseg_slim.files import write_json

    predictor = Predictor(args.config, args.engine, replace(_options(args), use_trt=False))
    shapes = np.array([predictor.preprocess(read_image(path))[0].shape for path, _ in pictures])
    ends = {"min": shapes.min(0), "opt": np.median(shapes, 0).astype(int), "max": shapes.max(0)}
    data = {key: [args.batch_size if key != "min" else 1, *map(int, value)] for key, value in ends.items()}
    write_json(args.auto_tuned_shape_file, {"input": predictor.input.name, **data})
    runner.log("The input sizes of %d pictures are saved in %s.", len(pictures), args.auto_tuned_shape_file)
    return 0


def _pictures(pictures: list[tuple[Path, PurePath]]) -> Iterator[np.ndarray]:
    from paddleseg_slim.data.image import read_image

    return (read_image(path) for path, _ in pictures)


def _masks(predictor: Predictor, args: argparse.Namespace, pictures: list[tuple[Path, PurePath]], folder: Path) -> str:
    """Pseudo-colour masks in ``folder`` as PaddleSeg writes them, overlays in ``added_prediction``."""
    from PIL import Image

    from paddleseg_slim.data.image import read_image
    from paddleseg_slim.tasks.prediction import mask_names, mask_picture, save_picture
    from paddleseg_slim.tasks.visual import blend, colour_map

    colours = colour_map(args.custom_color)
    targets = mask_names([name for _, name in pictures])
    results = predictor.predict(_pictures(pictures), args.batch_size)
    for (path, name), file, classes in zip(pictures, targets, results):
        save_picture(mask_picture(classes, colours), folder / file)
        overlay = Image.fromarray(blend(read_image(path), classes, colours))
        save_picture(overlay, folder / "added_prediction" / file)
        if args.print_detail:
            numbers, counts = np.unique(classes, return_counts=True)
            shares = ", ".join(f"{_name(predictor, n)} {c / classes.size:.1%}" for n, c in zip(numbers, counts))
            runner.log("%s: %s", name, shares)
    masks = "1 mask" if len(pictures) == 1 else f"{len(pictures)} masks"
    return f"{masks} saved in {folder}, overlays in {folder / 'added_prediction'}."


def _name(predictor: Predictor, number: int) -> str:
    names = predictor.deploy.class_names
    return names[number] if number < len(names) else str(number)


def _classes(
    predictor: Predictor, args: argparse.Namespace, pictures: list[tuple[Path, PurePath]], folder: Path
) -> str:
    """``predictions.csv``: picture, class, and its probability where the model gives one."""
    from paddleseg_slim.files import write_text

    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["image", "class", "probability"])
    for (_, name), scores in zip(pictures, predictor.predict(_pictures(pictures), args.batch_size)):
        best, probability = int(scores.argmax()) if scores.ndim else int(scores), ""
        if scores.ndim:
            powers = np.exp(scores - scores.max()) if predictor.deploy.output_op == "none" else scores
            probability = f"{powers[best] / powers.sum():.4f}"
        rows.writerow([name.as_posix(), _name(predictor, best), probability])
        if args.print_detail:
            runner.log("%s: %s %s", name, _name(predictor, best), probability)
    write_text(folder / "predictions.csv", text.getvalue())
    return f"{len(pictures)} predictions are saved in {folder / 'predictions.csv'}."


def _video(predictor: Predictor, args: argparse.Namespace, source: Path, folder: Path) -> str:
    from paddleseg_slim.deploy.infer import VideoOut, video_frames
    from paddleseg_slim.files import atomic_file
    from paddleseg_slim.tasks.visual import blend, colour_map

    if predictor.deploy.task != "segmentation":
        raise UserError("A classifier has nothing to paint over a video.", "Give pictures.")
    colours = colour_map(args.custom_color)
    rate, frames = video_frames(source)
    shown, fed = itertools.tee(frames)
    target = folder / f"{source.stem}{'.mp4' if source.suffix.lower() == '.mp4' else '.avi'}"
    count = 0
    with atomic_file(target) as temporary:
        out: VideoOut | None = None
        for frame, classes in zip(shown, predictor.predict(fed, args.batch_size)):
            out = out or VideoOut(temporary, rate, frame.shape[:2])
            out.add(blend(frame, classes, colours))
            count += 1
        if out is None:
            raise UserError(f"The video {source} has no frames.", "Convert it to MP4 (H.264) or AVI.")
        out.close()
    return f"{count} frames are saved in {target}."


def _print_model(predictor: Predictor) -> None:
    info = predictor.runtime.describe()
    runner.log("%s %s on %s, %s", info.engine, info.version, info.device, info.computes_in)
    for kind, specs in (("input", predictor.runtime.inputs), ("output", predictor.runtime.outputs)):
        for spec in specs:
            runner.log("%s %s: %s %s", kind, spec.name, spec.dtype, list(spec.shape))


def _warm_up(predictor: Predictor, args: argparse.Namespace, pictures: list[tuple[Path, PurePath]]) -> None:
    if not pictures:
        return
    first = next(_pictures(pictures[:1]))
    for _ in predictor.predict([first] * (10 * args.batch_size), args.batch_size):
        pass
    predictor.times = type(predictor.times)()


def _print_benchmark(predictor: Predictor, args: argparse.Namespace) -> None:
    stages = predictor.times.summary()
    info = predictor.runtime.describe()
    text = ", ".join(f"{name} {value:.2f} ms" for name, value in stages.items())
    name = args.model_name or Path(args.config).resolve().parent.name
    runner.log(
        "%s, %s %s, %s, %s, batch %d: %s a picture (medians)",
        *(name, info.engine, info.version, info.device, info.computes_in, args.batch_size, text),
    )
