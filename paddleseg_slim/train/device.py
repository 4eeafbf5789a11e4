"""Device, precision and threads: set what was asked for, or say why it cannot be."""

from __future__ import annotations

import os

import paddle

from paddleseg_slim.compat import set_num_threads
from paddleseg_slim.deploy.runtimes.machine import physical_cores
from paddleseg_slim.errors import UserError

DEVICES = ("cpu", "gpu", "xpu", "npu", "mlu")


def set_device(device: str | None) -> str:
    """Make Paddle use ``device`` and return it; None takes the GPU if there is one, else the CPU.

    Raises:
        UserError: this Paddle or this machine has no such device.
    """
    found = available()
    chosen = device or ("gpu" if "gpu" in found else "cpu")
    if chosen not in found:
        raise UserError(
            f"--device {chosen}: this Paddle ({paddle.__version__}) finds {', '.join(found)} only.",
            f"Give --device {found[-1]}, or install the Paddle package for {chosen}.",
        )
    number = os.environ.get("PADDLE_LOCAL_RANK", "0")
    paddle.set_device("cpu" if chosen == "cpu" else f"{chosen}:{number}")
    return chosen


def available() -> list[str]:
    """Kinds of device that this Paddle finds here."""
    found = ["cpu"]
    if paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0:
        found.append("gpu")
    if paddle.is_compiled_with_xpu():
        found.append("xpu")
    return [*found, *(kind for kind in paddle.device.get_all_custom_device_type() or [] if kind in DEVICES)]


def check_precision(precision: str, device: str) -> None:
    """Check that ``device`` can train in ``precision``.

    Raises:
        UserError: float16 on the CPU, where Paddle has no kernels for it.
    """
    if precision == "fp16" and device == "cpu":
        raise UserError(
            "--precision fp16 (--fp16) does not work on the CPU: Paddle has no float16 kernels for it.",
            "Leave it out, or train on a GPU.",
        )


def set_threads(threads: int | None) -> int:
    """Set the number of CPU threads of Paddle's kernels (it starts with one) and return it.

    None takes the physical cores, divided by the processes of a data-parallel run on this machine.

    Raises:
        UserError: less than one.
    """
    if threads is not None and threads < 1:
        raise UserError(f"--threads is {threads}.", "Give 1 or more.")
    chosen = threads or max(1, physical_cores() // max(1, int(os.environ.get("PADDLE_LOCAL_SIZE", "1"))))
    set_num_threads(chosen)
    return chosen
