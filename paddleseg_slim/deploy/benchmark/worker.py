"""The process that holds one model in one engine while several are measured in turn.

It reads one JSON request a line from standard input and answers with one JSON line on the stream that was standard
output at its start; what engines print goes to standard error, so it cannot mix with the answers.
Requests: ``load`` (once), ``block`` (run n times), ``finish`` (describe, then end).
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any, Callable, TextIO

import numpy as np
import psutil

from paddleseg_slim.deploy.runtimes import Runtime, RuntimeOptions, TensorSpec, load
from paddleseg_slim.deploy.runtimes.machine import peak_memory_mb
from paddleseg_slim.errors import SlimError, UserError

Feeds = dict[str, np.ndarray]


def fill_shape(spec: TensorSpec, shape: list[int]) -> list[int]:
    """Return the shape of a run for an input: the model's own where it is fixed, ``shape`` elsewhere.

    Raises:
        UserError: the model's fixed axes are not those of ``shape``, or it has other axes.
    """
    if -1 not in spec.shape and len(spec.shape) != len(shape):
        return list(spec.shape)
    fits = len(spec.shape) == len(shape) and all(have in (-1, want) for have, want in zip(spec.shape, shape))
    if not fits:
        raise UserError(
            f"Input {spec.name!r} takes shape {list(spec.shape)}, {shape} was asked for.",
            "Give that --input_shape, or export the model with dynamic axes.",
        )
    return shape


def random_feeds(inputs: list[TensorSpec], shape: list[int], seed: int) -> Feeds:
    """Standard normal numbers for floating-point inputs, zeros for integer ones."""
    generator = np.random.default_rng(seed)
    feeds = {}
    for spec in inputs:
        size = fill_shape(spec, shape)
        if np.issubdtype(np.dtype(spec.dtype), np.floating):
            feeds[spec.name] = generator.standard_normal(size).astype(spec.dtype)
        else:
            feeds[spec.name] = np.zeros(size, spec.dtype)
    return feeds


class Worker:
    """The state of the process: a runtime and what it is fed."""

    runtime: Runtime
    feeds: list[Feeds]

    def load(self, request: dict[str, Any]) -> dict[str, Any]:
        """Load the model, prepare its inputs, warm up."""
        if request["cpus"]:
            psutil.Process().cpu_affinity(request["cpus"])
        before = psutil.Process().memory_info().rss / 1e6
        start = time.perf_counter()
        self.runtime = load(request["path"], request["engine"], RuntimeOptions(**request["options"]))
        loaded = time.perf_counter()
        self.feeds = self._feeds(request)
        self._before = before
        self._turn = 0
        self.block({"runs": 1})
        first = time.perf_counter()
        self.block({"runs": request["warmup"]})
        return {"load_ms": (loaded - start) * 1000, "first_run_ms": (first - loaded) * 1000}

    def _feeds(self, request: dict[str, Any]) -> list[Feeds]:
        if request["images"] is None:
            return [random_feeds(self.runtime.inputs, request["input_shape"], request["seed"])]
        if len(self.runtime.inputs) != 1:
            raise UserError("Images can be fed to a model with one input only.", "Leave --images out.")
        with np.load(request["images"], allow_pickle=False) as archive:
            return [{self.runtime.inputs[0].name: archive[name]} for name in archive.files]

    def block(self, request: dict[str, Any]) -> dict[str, Any]:
        """Run ``runs`` times; wall and CPU (all threads) milliseconds of each."""
        wall, cpu = [], []
        for _ in range(request["runs"]):
            feeds = self.feeds[self._turn % len(self.feeds)]
            self._turn += 1
            used, start = time.process_time(), time.perf_counter()
            self.runtime.run(feeds)
            end, spent = time.perf_counter(), time.process_time()
            wall.append((end - start) * 1000)
            cpu.append((spent - used) * 1000)
        return {"wall_ms": wall, "cpu_ms": cpu}

    def finish(self, request: dict[str, Any]) -> dict[str, Any]:
        """Peak memory so far, then the engine's description of the model."""
        peak = peak_memory_mb()
        return {
            "peak_memory_mb": peak,
            "model_memory_mb": max(0.0, peak - self._before),
            "info": self.runtime.describe().to_dict(),
        }


def serve(requests: TextIO, answers: TextIO) -> None:
    """Answer requests until the stream ends."""
    worker = Worker()
    verbs: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
        "load": worker.load,
        "block": worker.block,
        "finish": worker.finish,
    }
    for line in requests:
        request = json.loads(line)
        try:
            answer = verbs[request.pop("verb")](request)
        except SlimError as error:
            answer = {"cause": error.cause, "remedy": error.remedy}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
    serve(sys.stdin, stream)
