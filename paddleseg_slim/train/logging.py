"""Where the numbers of a training go: a file of JSON lines, and VisualDL if asked for."""

from __future__ import annotations

import json
import logging
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from paddleseg_slim.errors import UserError

CURVE_FILE = "train_log.jsonl"


class _Output(logging.Handler):
    """Writes to what is standard output at the moment, which a caller in this process may have replaced."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stdout.write(self.format(record) + "\n")
        sys.stdout.flush()


def setup_logging() -> None:
    """Send the package's log to standard output, a line a message, as PaddleSeg prints it."""
    root = logging.getLogger("paddleseg_slim")
    root.setLevel(logging.INFO)
    root.propagate = False
    handler = _Output()
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
        self._path, self._start = folder / CURVE_FILE, start
        self._stream: IO[str] | None = None

    def _write(self, line: Mapping[str, Any]) -> None:
        if self._stream is None:  # not before there is something to write: what is refused first leaves nothing
            kept = [line for line in _lines(self._path) if line["iter"] <= self._start] if self._start else []
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = open(self._path, "w", encoding="utf-8")  # noqa: SIM115  (closed by `close`)
            self._stream.writelines(json.dumps(old) + "\n" for old in kept)
        self._stream.write(json.dumps(line) + "\n")
        self._stream.flush()

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Append a line."""
        self._write({"iter": step, **{tag: float(value) for tag, value in values.items()}})

    def image(self, tag: str, picture: np.ndarray, step: int) -> None:
        """Keep nothing: this log holds numbers."""

    def close(self) -> None:
        """Close the file."""
        if self._stream is not None:
            self._stream.close()


def read_curves(folder: Path) -> dict[str, list[list[float]]]:
    """The numbers that `CurveLogger` wrote into ``folder``: tag -> points ``[step, value]``."""
    curves: dict[str, list[list[float]]] = {}
    for line in _lines(folder / CURVE_FILE):
        for tag, value in line.items():
            if tag != "iter":
                curves.setdefault(tag, []).append([line["iter"], value])
    return curves


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
