"""Progress of long work: a bar with an ETA on a terminal, a line at least every 30 seconds in a pipe."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress

_LOG = logging.getLogger(__name__)
LINE_EVERY_SECONDS = 30.0


def eta_text(seconds: float) -> str:
    """Hours, minutes and seconds as ``HH:MM:SS``."""
    whole = max(0, int(seconds))
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}"


class Progress:
    """A context that counts steps.

    Args:
        total: number of steps.
        title: what is going on, in front of the bar or the line.
        done: steps done already (a resumed run).
        lines: print lines in a pipe; False for work that prints its own.
        share: say the share done, not the number of steps.
    """

    def __init__(self, total: int, title: str, *, done: int = 0, lines: bool = True, share: bool = False) -> None:
        self.total, self.title, self.done, self._lines, self._share = total, title, done, lines, share
        self._bar: RichProgress | None = None
        self._first = done
        self._start = self._last_line = time.monotonic()

    def __enter__(self) -> Progress:
        self._start = self._last_line = time.monotonic()
        if sys.stderr.isatty():
            self._bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn() if self._share else MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("ETA"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task(self.title, total=self.total, completed=self.done)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def step(self, count: int = 1) -> None:
        """Count ``count`` steps more."""
        self.done += count
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done)
            return
        now = time.monotonic()
        if self._lines and now - self._last_line >= LINE_EVERY_SECONDS:
            self._last_line = now
            rest = (now - self._start) / max(1, self.done - self._first) * (self.total - self.done)
            done = f"{100 * self.done // self.total} %" if self._share else f"{self.done}/{self.total}"
            _LOG.info("%s %s | ETA %s", self.title, done, eta_text(rest))


@contextlib.contextmanager
def share_done(title: str) -> Iterator[Callable[[int, int], None]]:
    """A `Progress` that is told how much is done, of how much: work whose steps mean nothing to the user."""
    with Progress(100, title, share=True) as bar:
        yield lambda done, of: bar.step(100 * done // of - bar.done)
