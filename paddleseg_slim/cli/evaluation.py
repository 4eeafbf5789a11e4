"""What runs a model where no gradient is needed: evaluations, also those between the steps of a training."""

from __future__ import annotations

import importlib.util
import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from paddleseg_slim.cli import runner, setup
from paddleseg_slim.errors import UserError

if TYPE_CHECKING:
    import argparse

    import paddle

    from paddleseg_slim.graph import Executor, GraphLayer
    from paddleseg_slim.tasks.base import Forward, Task

ENGINES = ("auto", "onnxruntime", "paddle")

WORTH = 64
"""Images from which on ``auto`` writes a model for an engine, which costs as much as 10 to 60 images in Paddle."""

TOLERANCE = 1e-3
"""Mean difference to Paddle, relative to the range of an output, from which on an engine is not used."""


def add_engine(parser: argparse.ArgumentParser, *names: str) -> None:
    """``--eval_engine``, also under the ``names`` given."""
    text = "what runs evaluations; auto (default): ONNX Runtime on a CPU where that is faster, else Paddle"
    parser.add_argument("--eval_engine", *names, dest="eval_engine", choices=ENGINES, default="auto", help=text)


def check_engine(args: argparse.Namespace) -> None:
    """Refuse mixed precision in an engine that has none of its own.

    Raises:
        UserError: ``--fp16`` and an ``--engine`` other than Paddle.
    """
    if setup.precision(args) == "fp16" and args.engine not in ("auto", "paddle"):
        raise UserError(
            f"--precision fp16 (--fp16) is Paddle's mixed precision, but --engine is {args.engine}.",
            "Leave one of them out.",
        )


def check_described(model: Path, task: Task) -> None:
    """Refuse an exported model that says it was trained for other classes, or is fed otherwise, than the config.

    Args:
        model: an exported file, or its folder; what says nothing of itself passes.
        task: of the config.

    Raises:
        UserError: class names or preprocessing differ.
    """
    from paddleseg_slim.deploy.description import Deploy
    from paddleseg_slim.deploy.infer import preprocessing
    from paddleseg_slim.deploy.metadata import told_by

    told = told_by(model)
    if "transforms" in told:  # PaddleSeg leaves out arguments that have their defaults
        described = preprocessing(Deploy(transforms=told["transforms"]), model).describe()["transforms"]
        told["transforms"] = json.loads(json.dumps(described))
    wanted = {"class_names": list(task.class_names()), "transforms": task.preprocess().describe()["transforms"]}
    for key, value in wanted.items():
        if key in told and told[key] != json.loads(json.dumps(value)):
            raise UserError(
                f"{model} says {key} {told[key]}, the config {value}.", "Give the config that it was exported with."
            )


def has_onnxruntime() -> bool:
    """Whether ONNX Runtime, and what writes its files, is installed."""
    return all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime"))


def best_executor(engine: str = "auto", threads: int = 0) -> Executor:
    """What runs graphs where no gradient is needed.

    Args:
        engine: ``onnxruntime``, ``paddle``, or ``auto``: ONNX Runtime on a CPU where it is installed, else Paddle.
        threads: CPU threads; 0 is the physical cores.

    Raises:
        UserError: the engine asked for is not installed.
    """
    import paddle

    from paddleseg_slim.deploy.executor import executor

    if engine == "auto":
        engine = "onnxruntime" if has_onnxruntime() and paddle.get_device() == "cpu" else "paddle"
    return executor(engine, threads)


class SideBySide:
    """A `Forward` of an engine, which several threads may call at the same time (see `train.evaluate`).

    Args:
        forward: of the engine.
        at_once: how many threads.
        choose: keeps ``forward`` or takes another, which is called by one thread at a time, by the first images.
    """

    def __init__(self, forward: Forward, at_once: int, choose: Callable[[np.ndarray], Forward]) -> None:
        self.at_once = at_once
        self._engine, self._choose = forward, choose
        self._chosen: Forward | None = None
        self._lock = threading.Lock()

    def __call__(self, images: np.ndarray) -> Any:
        """The outputs for ``images``, float32 ``[N, 3, H, W]``."""
        with self._lock:
            if self._chosen is None:
                self._chosen = self._choose(images)
            if self._chosen is not self._engine:
                return self._chosen(images)
        return self._engine(images)


class Forwards:
    """Makes a `Forward` of a model in evaluation, with the weights that it has at this moment.

    With ``auto``, a model that cannot be captured, has an op that the engine lacks, or gives other numbers there is run
    by Paddle, and the log says why. Which one it is depends on the model and on the number of images alone, so a run
    that is resumed goes on with the same.

    Args:
        task: of the model.
        engine: see `best_executor`.
        threads: CPU threads; 0 is the physical cores.
        images: how many a forward is made for; with ``auto``, Paddle runs fewer than `WORTH`.
        batch_size: the most images at once, as in `train.evaluate`; at most as many are run side by side and share the
            threads, of which small layers leave less idle so.

    Raises:
        UserError: the engine asked for is not installed.
    """

    def __init__(
        self, task: Task, engine: str = "auto", threads: int = 0, images: int = WORTH, batch_size: int = 8
    ) -> None:
        from paddleseg_slim.deploy.runtimes import RuntimeOptions

        self._task, self._engine = task, engine
        cores = RuntimeOptions(threads=threads).thread_count
        self._at_once = min(cores, batch_size)
        runs_on = "paddle" if engine == "auto" and images < WORTH else engine
        # a session has one pool for all who call it, and every caller works, too
        self._runs_on = best_executor(runs_on, cores - self._at_once + 1)
        self._captured: tuple[paddle.nn.Layer, GraphLayer] | None = None
        self._compared = False

    def __call__(self, model: paddle.nn.Layer) -> Forward:
        """The forward of ``model``.

        Raises:
            UserError: an engine was asked for by name and cannot run the model.
        """
        from paddleseg_slim.deploy.executor import engine_forward
        from paddleseg_slim.train.evaluate import model_forward

        if self._runs_on.name == "paddle":
            return model_forward(model)
        try:
            forward = engine_forward(self._graph(model), self._runs_on)
            return SideBySide(
                forward, self._at_once, lambda images: self._equal(forward, model_forward(model), images[:1])
            )
        except UserError as error:
            return self._instead(model_forward(model), error)

    def _graph(self, model: paddle.nn.Layer) -> GraphLayer:
        """The model as a graph that shares its weights; captured once."""
        from paddleseg_slim.graph import GraphLayer, capture

        if isinstance(model, GraphLayer):
            return model
        if self._captured is None or self._captured[0] is not model:
            self._captured = model, capture(model, self._task.input_spec(), verify=False)
        return self._captured[1]

    def _instead(self, forward: Forward, error: UserError) -> Forward:
        if self._engine != "auto":
            raise error
        runner.log("Evaluating through Paddle, not %s: %s", self._runs_on.name, error.cause)
        self._runs_on = best_executor("paddle")
        return forward

    def _equal(self, forward: Forward, expected: Forward, images: np.ndarray) -> Forward:
        if self._compared:
            return forward
        self._compared = True
        error = difference(forward(images), expected(images))
        if error <= TOLERANCE:
            return forward
        name = self._runs_on.name
        cause = f"{name} differs from Paddle by {error:.1e} of the range of an output."
        return self._instead(expected, UserError(cause, "Evaluate with --engine paddle."))


def difference(got: Any, expected: Any) -> float:
    """Largest mean difference of two models' floating-point outputs, relative to each output's range."""
    from paddleseg_slim.graph import flatten

    pairs: Sequence[tuple[Any, Any]] = list(zip(flatten(got), flatten(expected)))
    errors = [0.0]
    for one, other in pairs:
        if not isinstance(other, np.ndarray) or not np.issubdtype(other.dtype, np.floating):
            continue
        if one.shape != other.shape or not np.array_equal(np.isfinite(one), np.isfinite(other)):
            return float("inf")
        if np.isfinite(other).all():
            errors.append(float(np.abs(one - other).mean()) / max(float(np.ptp(other)), 1e-6))
    return max(errors)


def fast_forward(
    model: paddle.nn.Layer, task: Task, engine: str = "auto", threads: int = 0, batch_size: int = 8
) -> Forward:
    """`Forwards` for one model that is not trained meanwhile."""
    return Forwards(task, engine, threads, batch_size=batch_size)(model)
