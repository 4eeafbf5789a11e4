"""Predict pictures and write what the model sees in them."""

from __future__ import annotations

import argparse
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from paddleseg_slim.cli import arguments, evaluation, runner, setup, slim_section
from paddleseg_slim.errors import UserError

if TYPE_CHECKING:
    from paddleseg_slim.tasks.base import Forward, Task

HELP = "predict pictures with a trained model"
SUFFIXES = (".jpeg", ".jpg", ".bmp", ".png")

_NOT_HERE = {"use_multilabel": ("multi-label segmentation is not supported.", "Leave it out.")}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """PaddleSeg's flags of ``predict.py``."""
    arguments.add_config(parser)
    arguments.add_weights(parser)
    slim_section.add(parser)
    parser.add_argument(
        "--image_path", required=True, metavar="PATH", help="a picture, a folder, or a list of pictures"
    )
    parser.add_argument("--save_dir", default="./output/result", metavar="DIR", help="default ./output/result; the "
                        "mask of x.jpg is x.png there, but x.jpg.png beside that of another x")  # fmt: skip
    parser.add_argument("--custom_color", nargs="+", type=int, metavar="V", help="R G B of the first classes")
    arguments.add_device(parser)
    arguments.add_precision(parser)
    arguments.add_data_format(parser)
    arguments.add_inference(parser, "aug_pred")
    parser.add_argument(
        "--engine", choices=evaluation.ENGINES, default="auto", help="what runs the model; auto: fastest"
    )
    parser.add_argument("--use_multilabel", action="store_true", help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Predict; see `add_arguments`."""
    arguments.refuse(args, _NOT_HERE)
    args.model_path = slim_section.need_model(args)
    pictures = find_pictures(args.image_path)
    evaluation.check_engine(args)
    arguments.check_folder(args.save_dir)
    session = setup.start(args)
    from paddleseg_slim import config as configs
    from paddleseg_slim.tasks import build_task
    from paddleseg_slim.train.evaluate import model_forward
    from paddleseg_slim.train.progress import Progress

    config = configs.load_config(args.config, args.opts)
    task = build_task(config)
    writer = task.writer(Path(args.save_dir), [name for _, name in pictures], args.custom_color)
    settings = {**arguments.inference_settings(args, "aug_pred", {}), "aug_eval": args.aug_pred}
    task.check_inference(settings)
    model = setup.load_model(task, args.model_path, data_format=args.data_format, reset_head=args.reset_head)
    if setup.precision(args) == "fp16":
        forward = model_forward(model, autocast=args.amp_level)
    else:
        forward = evaluation.Forwards(task, args.engine, session.threads, len(pictures), batch_size=1)(model)
    forward = task.inference(forward, settings)
    with Progress(len(pictures), "Predicting") as progress:
        for name, picture, logits in predictions(task, forward, pictures):
            writer.add(name, picture, logits)
            progress.step()
    runner.log("%s", writer.close())
    return 0


def predictions(
    task: Task, forward: Forward, pictures: list[tuple[Path, PurePath]]
) -> Iterator[tuple[PurePath, np.ndarray, np.ndarray]]:
    """Yield (relative name, picture uint8 ``[H, W, 3]``, logits of it) for each picture."""
    from paddleseg_slim.data.image import read_image

    preprocess = task.preprocess()
    for path, name in pictures:
        picture = read_image(path)
        sample: dict[str, Any] = preprocess({"img": str(path), "gt_fields": [], "trans_info": []})
        logits = task.restore(forward(sample["img"][None]), sample)
        yield name, picture, logits[0]


def find_pictures(path: str) -> list[tuple[Path, PurePath]]:
    """The pictures of ``--image_path``, each with its name relative to the folder (of a list: as the list has it).

    A picture of a list that is outside its folder is called by its file name alone, or, where another is called so,
    by its path without root and ``..``. No two names are the same.

    Args:
        path: a picture, a folder (searched through) or a text file with a picture a line, relative to its folder;
            the longest beginning of a line that is a file counts (a label may follow).

    Raises:
        UserError: there is no picture, one of a list is missing, or two would have one name.
    """
    given = Path(path)
    pictures: list[tuple[Path, PurePath]]
    if given.is_dir():
        found = sorted(
            Path(folder) / name
            for folder, _, names in os.walk(given)
            for name in names
            if name.lower().endswith(SUFFIXES) and not name.startswith(".")
        )
        pictures = [(file, file.relative_to(given)) for file in found]
    elif not given.is_file():
        raise UserError(f"--image_path {given} does not exist.", "Give a picture, a folder or a list of pictures.")
    elif given.suffix.lower() in SUFFIXES:
        pictures = [(given, PurePath(given.name))]
    else:
        pictures = _listed(given)
    if not pictures:
        raise UserError(f"--image_path {given} has no pictures.", f"Known are {', '.join(SUFFIXES)}.")
    return pictures


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # the line is no name: too long for one
        return False


def _listed(path: Path) -> list[tuple[Path, PurePath]]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise UserError(
            f"--image_path {path} is neither a picture ({', '.join(SUFFIXES)}) nor a list in UTF-8.",
            "Give a picture, a folder or a list of pictures.",
        ) from None
    entries: dict[PurePath, None] = {}  # one that is listed twice counts once, with "./" before it or not
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        ends = [blank.start() for blank in re.finditer(r"\s+", line.strip())]  # names may have blanks themselves
        candidates = [line.strip()[:end] for end in [None, *reversed(ends)]]
        entry = next((item for item in candidates if _is_file(path.parent / item)), None)
        if entry is None:
            raise UserError(f"{path}, line {number}: {candidates[-1][:100]} does not exist.", "Correct the list.")
        entries[PurePath(entry)] = None
    names = _names(list(entries))
    found: dict[PurePath, PurePath] = {}
    for picture, name in zip(entries, names):
        if name in found:
            raise UserError(
                f"{path}: the results of {found[name]} and {picture} would both be called {name}.",
                "Predict them apart, into different folders.",
            )
        found[name] = picture
    return [(path.parent / picture, name) for name, picture in found.items()]


def _names(entries: list[PurePath]) -> list[PurePath]:
    """What pictures of a list are called below the folder of the results."""
    outside = [entry.is_absolute() or ".." in entry.parts for entry in entries]
    short = [PurePath(entry.name) if out else entry for entry, out in zip(entries, outside)]
    counts = Counter(short)
    return [
        PurePath(*(part for part in entry.parts if part not in (entry.anchor, "..")))
        if out and counts[name] > 1
        else name
        for entry, name, out in zip(entries, short, outside)
    ]
