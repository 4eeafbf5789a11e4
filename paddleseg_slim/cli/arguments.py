"""Arguments that several commands share, under PaddleSeg's names."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paddleseg_slim.errors import UserError

DEVICES = ("cpu", "gpu", "xpu", "npu", "mlu")


def add_config(parser: argparse.ArgumentParser) -> None:
    """``--config`` and ``--opts``."""
    parser.add_argument("--config", required=True, metavar="FILE", help="config file (YAML, as PaddleSeg's)")
    parser.add_argument("--opts", nargs="+", default=[], metavar="KEY=VALUE", help="change keys of the config")


def add_device(parser: argparse.ArgumentParser) -> None:
    """``--device``, ``--threads``."""
    parser.add_argument("--device", choices=DEVICES, help="default: the GPU if there is one, else the CPU")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads; default: the physical cores")


def add_precision(parser: argparse.ArgumentParser) -> None:
    """``--precision``, ``--fp16``, ``--amp_level``."""
    parser.add_argument("--precision", choices=("fp32", "fp16"), default="fp32", help="fp16: mixed precision (GPU)")
    parser.add_argument("--fp16", action="store_true", help="the same as --precision fp16")
    parser.add_argument("--amp_level", choices=("O1", "O2"), default="O1", help="level of mixed precision")


def add_data_format(parser: argparse.ArgumentParser) -> None:
    """``--data_format``."""
    parser.add_argument("--data_format", choices=("NCHW", "NHWC"), default="NCHW", help="layout inside the model")


def add_weights(parser: argparse.ArgumentParser, required: bool = False) -> None:
    """``--model_path``, ``--reset_head``."""
    text = "weights (.pdparams, .safetensors), or the folder of a compressed model"
    parser.add_argument("--model_path", required=required, metavar="FILE", help=text)
    parser.add_argument(
        "--reset-head", "--reset_head", action="store_true", help="keep the initial head if its class number differs"
    )


def add_output(parser: argparse.ArgumentParser, default: str) -> None:
    """``--save_dir``, ``--overwrite``."""
    parser.add_argument("--save_dir", default=default, metavar="DIR", help=f"where results go; default {default}")
    parser.add_argument("--overwrite", action="store_true", help="replace what is in --save_dir")


def add_skip_bad(parser: argparse.ArgumentParser) -> None:
    """``--skip_bad``."""
    text = "leave samples that cannot be read out, and count them"
    parser.add_argument("--skip-bad", "--skip_bad", action="store_true", help=text)


def add_inference(parser: argparse.ArgumentParser, augment: str) -> None:
    """How to infer: ``--<augment>``, scales, flips, sliding window.

    Args:
        parser: of the command.
        augment: ``aug_eval`` (val) or ``aug_pred`` (predict).
    """
    parser.add_argument(f"--{augment}", action="store_true", help="average over --scales and flips")
    parser.add_argument("--scales", nargs="+", type=float, metavar="S", help="scales to average over")
    parser.add_argument("--flip_horizontal", action="store_true", help="also the mirror image")
    parser.add_argument("--flip_vertical", action="store_true", help="also upside down")
    parser.add_argument("--is_slide", action="store_true", help="infer in windows")
    parser.add_argument("--crop_size", nargs=2, type=int, metavar=("W", "H"), help="size of a window")
    parser.add_argument("--stride", nargs=2, type=int, metavar=("W", "H"), help="distance between windows")


def inference_settings(args: argparse.Namespace, augment: str, configured: dict[str, Any]) -> dict[str, Any]:
    """The settings of ``test_config`` with the flags of `add_inference` on top."""
    flags = {
        "aug_eval": getattr(args, augment),
        **{key: getattr(args, key) for key in ("scales", "flip_horizontal", "flip_vertical")},
        **{key: getattr(args, key) for key in ("is_slide", "crop_size", "stride")},
    }
    return {**configured, **{key: value for key, value in flags.items() if value not in (None, False)}}


def add_boolean(parser: argparse.ArgumentParser, name: str, text: str, default: bool | None = False) -> None:
    """A switch that PaddleSeg's users write ``--name True`` (``1``, ``False``, ``0``) or ``--name`` alone.

    Args:
        parser: of the command.
        name: of the flag.
        text: its help.
        default: None tells "not given" from False.
    """
    parser.add_argument(name, type=_boolean, nargs="?", const=True, default=default, metavar="BOOL", help=text)


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0"):
        raise argparse.ArgumentTypeError(f"{text!r} is not True or False")
    return text.lower() in ("true", "1")


def refuse(args: argparse.Namespace, reasons: dict[str, tuple[str, str]]) -> None:
    """Refuse flags of PaddleSeg that mean nothing here, rather than ignore them.

    Args:
        args: the parsed arguments.
        reasons: flag name -> (why, what to do instead).

    Raises:
        UserError: one of them was given.
    """
    for name, (why, remedy) in reasons.items():
        if getattr(args, name) not in (None, False):
            raise UserError(f"--{name}: {why}", remedy)


def at_least(args: argparse.Namespace, **limits: int) -> None:
    """Refuse numbers below their limit.

    Raises:
        UserError: a flag's number is too small.
    """
    for name, limit in limits.items():
        value = getattr(args, name)
        if value is not None and value < limit:
            raise UserError(f"--{name} is {value}.", f"Give {limit} or more.")


def above_zero(args: argparse.Namespace, *names: str) -> None:
    """Refuse numbers that are not finite and above 0.

    Raises:
        UserError: a flag's number is not.
    """
    for name in names:
        value = getattr(args, name)
        if value is not None and not (math.isfinite(value) and value > 0):
            raise UserError(f"--{name} is {value}.", "Give a number above 0.")


def no_onednn(flag: str) -> UserError:
    """The error for ``flag``, with which oneDNN was to be turned off on the CPU."""
    return UserError(f"{flag} false would only make the CPU five times slower.", "Leave it out.")


def check_shape(given: Sequence[int]) -> None:
    """Check the lengths of ``--input_shape``, none for what the model says.

    Raises:
        UserError: there are neither four nor two, or one is below 1.
    """
    if given and len(given) not in (2, 4):
        raise UserError(f"--input_shape has {len(given)} numbers.", "Give N C H W, or H W.")
    if any(side < 1 for side in given):
        raise UserError(f"--input_shape is {' '.join(map(str, given))}.", "Give lengths of 1 or more.")


def check_folder(path: str, flag: str = "--save_dir") -> Path:
    """Return ``path``, which ``flag`` gave, as an existing, writable folder, made if needed.

    Args:
        path: the folder.
        flag: which asked for it, for the remedy.

    Raises:
        UserError: it is a file or below one, or cannot be written.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe{os.getpid()}"  # several processes of one run look at the same time
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        file = next((place for place in (folder, *folder.parents) if os.path.isfile(place)), None)
        if file is not None:
            what = "it" if file == folder else str(file)
            cause = f"{folder} cannot be written: {what} is a file, no folder."
            raise UserError(cause, f"Give another {flag}.") from None
        raise UserError(f"{folder} cannot be written ({error.strerror}).", f"Give another {flag}.") from None
    return folder


def check_stage_folder(path: str, kind: str) -> Path:
    """`check_folder` for a command that writes a ``stage.json`` there: one of another command stays.

    Raises:
        UserError: as `check_folder`, or the folder holds the stage of another command.
    """
    from paddleseg_slim.report.stage import FILE_NAME, read_stage

    folder = check_folder(path)
    if (folder / FILE_NAME).is_file() and (there := read_stage(folder).kind) != kind:
        raise UserError(f"{folder} holds the result of another command ({there}).", "Give another --save_dir.")
    return folder


def visible(folder: Path) -> Sequence[Path]:
    """Entries of a folder that do not begin with a dot."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def named(text: str) -> tuple[str, str]:
    """Name and path of ``NAME=PATH``; a path alone is named after its file, or its folder where that is ``model``."""
    name, equals, path = text.partition("=")
    if equals and not Path(text).exists():
        return name, path
    target = Path(text)
    generic = target.stem in ("model", "inference", "__model__") and target.suffix
    return (target.resolve().parent.name if generic else target.stem or target.name), text
