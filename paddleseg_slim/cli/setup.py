"""What the commands that run a model do first: log, device, threads, model."""

from __future__ import annotations

import argparse
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paddleseg_slim.cli import arguments
from paddleseg_slim.errors import UserError

if TYPE_CHECKING:
    import paddle

    from paddleseg_slim.tasks.base import Task


@dataclass(frozen=True)
class Session:
    """What is in force.

    Attributes:
        device: ``cpu``, ``gpu``, ...
        threads: CPU threads of Paddle.
    """

    device: str
    threads: int


def start(args: argparse.Namespace) -> Session:
    """Check Paddle, then set the log, the device and the threads that ``args`` ask for.

    Paddle's handler of SIGTERM is taken off (`compat.restore_sigterm`).

    Raises:
        UserError: Paddle is missing or unsupported, or this machine cannot honour a flag.
    """
    from paddleseg_slim import compat  # refuses a missing or unsupported Paddle when imported
    from paddleseg_slim.train import device
    from paddleseg_slim.train.logging import setup_logging

    setup_logging()
    compat.restore_sigterm()
    if hasattr(args, "seed"):
        arguments.at_least(args, seed=0)
    chosen = device.set_device(getattr(args, "device", None))
    device.check_precision(precision(args), chosen)
    if precision(args) == "fp32" and getattr(args, "amp_level", "O1") != "O1":
        raise UserError(f"--amp_level {args.amp_level} is given without --precision fp16.", "Add it, or leave it out.")
    threads = device.set_threads(getattr(args, "threads", None))
    import paddle

    if paddle.distributed.ParallelEnv().nranks > 1 and not paddle.distributed.is_initialized():
        paddle.distributed.init_parallel_env()
    if paddle.distributed.get_rank() > 0:
        logging.getLogger("paddleseg_slim").setLevel(logging.WARNING)  # the first process speaks for all
    return Session(chosen, threads)


def one_process(verb: str) -> None:
    """Refuse ``paddle.distributed.launch`` for a command of which every process would do and write the same.

    Raises:
        UserError: there are several processes.
    """
    import paddle

    if paddle.distributed.ParallelEnv().nranks > 1:
        raise UserError(f"{verb} runs in one process.", "Start it without paddle.distributed.launch.")


def precision(args: argparse.Namespace) -> str:
    """``fp16`` or ``fp32``, by ``--precision`` and ``--fp16`` where a command has them."""
    return "fp16" if getattr(args, "fp16", False) else str(getattr(args, "precision", "fp32"))


def saved_graph(path: str) -> Path | None:
    """Where the graph of ``path`` is saved (``graph.json``): there, or in its ``graph/``; None for anything else."""
    places = (Path(path), Path(path) / "graph")
    return next((place for place in places if (place / "graph.json").is_file()), None)


_EXPORTED = (".pdiparams", ".pdmodel", ".onnx")
"""Suffixes of files of exported models; a ``model.json`` has its ``.pdiparams`` beside it."""


def refuse_exported(path: str) -> None:
    """Refuse an exported model, a folder or a file of it, where weights or a saved graph are wanted.

    Raises:
        UserError: it is one.
    """
    given = Path(path)
    weights = given.with_suffix(".pdiparams") if given.suffix == ".json" else given
    files = list(given.iterdir()) if given.is_dir() else [weights]
    found = any(file.is_file() and (file.suffix in _EXPORTED or file.name == "__model__") for file in files)
    if found and not any(file.suffix in (".pdparams", ".safetensors") for file in files):
        raise UserError(
            f"{given} is an exported model, neither weights (.pdparams, .safetensors) nor a saved graph.",
            "Give what it was exported from. With an exported model, paddleseg-slim infer (deploy/python/infer.py) "
            "predicts and paddleseg-slim eval evaluates.",
        )


def load_model(task: Task, path: str, *, data_format: str = "NCHW", reset_head: bool | None = None) -> paddle.nn.Layer:
    """The model of ``task`` with the weights of ``path``, or the compressed model in the folder ``path``.

    Args:
        task: builds the model.
        path: ``.pdparams``, ``.safetensors``, or a folder that a compression command wrote: `saved_graph`.
        data_format: layout inside the model.
        reset_head: see `train.weights.load_weights`; None for a command that has no such flag.

    Raises:
        UserError: it cannot be read, or does not fit.
    """
    folder = saved_graph(path)
    if folder is not None:
        from paddleseg_slim.graph import load

        if data_format != "NCHW":
            raise UserError(
                f"--data_format {data_format}: {path} is a saved graph with its own layout.", "Leave it out."
            )
        model: paddle.nn.Layer = load(folder)
        return model
    refuse_exported(path)
    from paddleseg_slim.train.weights import load_weights

    model = task.build_model(data_format)
    load_weights(model, path, reset_head=reset_head)
    return model


class Repeated:
    """A dataset whose samples come several times in an epoch, each time augmented anew."""

    def __init__(self, dataset: Any, times: int) -> None:
        self._dataset, self._times = dataset, times

    def __len__(self) -> int:
        return len(self._dataset) * self._times

    def __getitem__(self, key: int | tuple[int, int]) -> Any:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        turn, index = divmod(index, len(self._dataset))
        return self._dataset[(epoch * self._times + turn, index)]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dataset, name)


def repeated(dataset: Any, times: int) -> Any:
    """Repeat ``dataset`` ``times`` times an epoch.

    Raises:
        UserError: less than once.
    """
    if times < 1:
        raise UserError(f"--repeats is {times}.", "Give 1 or more.")
    return Repeated(dataset, times) if times > 1 else dataset
