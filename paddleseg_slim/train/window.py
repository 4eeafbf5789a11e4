"""Losses and times of the steps between two log lines."""

from __future__ import annotations

import time
from typing import Any

from paddleseg_slim.train.progress import LINE_EVERY_SECONDS


class Window:
    """Sums over the steps since the last log line; losses stay on the device until they are asked for."""

    def __init__(self) -> None:
        self.rate = 0.0
        self.reading = 0.0
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        self.count, self.reading, self._paused = 0, 0.0, 0.0
        self._sums: dict[str, Any] = {}
        self._began = self._last = time.monotonic()

    def pause(self) -> None:
        """Do not count the time since the last step: it went into an evaluation and a checkpoint."""
        now = time.monotonic()
        self._paused += now - self._last
        self._last = now

    def add(self, losses: dict[str, Any], rate: float) -> None:
        """Add a step."""
        for name, value in losses.items():
            value = value.detach().astype("float32")
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self.rate, self.count, self._last = rate, self.count + 1, time.monotonic()

    def due(self, step: int, every: int) -> bool:
        """Whether a line is due: every ``every`` steps, and at least every 30 seconds."""
        return step % every == 0 or time.monotonic() - self._began - self._paused >= LINE_EVERY_SECONDS

    def averages(self) -> dict[str, float]:
        """Average losses by name."""
        return {name: float(value) / self.count for name, value in self._sums.items()}

    def costs(self) -> tuple[float, float]:
        """Average seconds of a step, and of waiting for its data."""
        spent = time.monotonic() - self._began - self._paused
        return spent / max(1, self.count), self.reading / max(1, self.count)
