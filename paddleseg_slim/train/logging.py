"""Where the numbers of a training go: a file of JSON lines, and VisualDL if asked for."""

from __future__ import annotations

import json
import logging
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from paddleseg_slim.errors import UserError

CURVE_FILE = "train_log.jsonl"


def setup_logging() -> None:
    """Send the package's log to standard output, a line a message, as PaddleSeg prints it."""
    root = logging.getLogger("paddleseg_slim")
    root.setLevel(logging.INFO)
    root.propagate = False
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(asctime)s [%(levelname)8s]\t%(message)s", "%Y-%m-%d %H:%M:%S"))
    root.handlers[:] = [handler]


class Logger(ABC):
    """Takes numbers and pictures by tag and step.

    Attributes:
        wants_pictures: whether `image` keeps what it is given.
    """

    wants_pictures: bool = False

    @abstractmethod
    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Record numbers by tag: ``Train/loss``, ``Evaluate/mIoU``."""

    @abstractmethod
    def image(self, tag: str, picture: np.ndarray, step: int) -> None:
        """Record a picture, uint8 ``[H, W, 3]``, RGB."""

    @abstractmethod
    def close(self) -> None:
        """Write what is not yet written."""


class CurveLogger(Logger):
    """Numbers as JSON lines ``{"iter": 10, "Train/loss": 1.2}`` in ``train_log.jsonl``; pictures are not kept.

    Args:
        folder: folder of the run.
        start: steps done already; lines of an earlier run beyond them are dropped, as they are done again.
    """

    def __init__(self, folder: Path, start: int = 0) -> None:
        path = folder / CURVE_FILE
        kept = [line for line in _lines(path) if line["iter"] <= start] if start else []
        folder.mkdir(parents=True, exist_ok=True)
        self._stream = open(path, "w", encoding="utf-8")  # noqa: SIM115  (closed by `close`)
        for line in kept:
            self._write(line)

    def _write(self, line: Mapping[str, Any]) -> None:
        self._stream.write(json.dumps(line) + "\n")
        self._stream.flush()

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Append a line."""
        self._write({"iter": step, **{tag: float(value) for tag, value in values.items()}})

    def image(self, tag: str, picture: np.ndarray, step: int) -> None:
        """Keep nothing: this log holds numbers."""

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


def _lines(path: Path) -> Iterable[dict[str, Any]]:
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:  # the last line of a run that was killed while writing
            break
    return lines


class VisualDLLogger(Logger):
    """Numbers and pictures for the VisualDL server (``visualdl --logdir <folder>``).

    Raises:
        UserError: VisualDL is not installed or does not import.
    """

    wants_pictures = True

    def __init__(self, folder: Path) -> None:
        try:
            from visualdl import LogWriter
        except ImportError as error:
            raise UserError(
                f"--use_vdl needs VisualDL, which does not import ({error}).", "pip install 'paddleseg_slim[vdl]'"
            ) from None
        self._writer = LogWriter(logdir=str(folder))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Record numbers."""
        for tag, value in values.items():
            self._writer.add_scalar(tag=tag, value=float(value), step=step)

    def image(self, tag: str, picture: np.ndarray, step: int) -> None:
        """Record a picture."""
        self._writer.add_image(tag=tag, img=picture, step=step)

    def close(self) -> None:
        """Flush and close."""
        self._writer.close()


class Loggers(Logger):
    """Several loggers as one."""

    def __init__(self, loggers: Iterable[Logger] = ()) -> None:
        self.loggers = list(loggers)
        self.wants_pictures = any(logger.wants_pictures for logger in self.loggers)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Record numbers in each."""
        for logger in self.loggers:
            logger.scalars(values, step)

    def image(self, tag: str, picture: np.ndarray, step: int) -> None:
        """Record a picture in each."""
        for logger in self.loggers:
            logger.image(tag, picture, step)

    def close(self) -> None:
        """Close each."""
        for logger in self.loggers:
            logger.close()
