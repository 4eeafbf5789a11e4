"""What a retraining command leaves besides the graph: Paddle Inference files, ONNX, and the facts of the stage."""

from __future__ import annotations

import importlib.util
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paddleseg_slim.cli import runner
from paddleseg_slim.config import Config
from paddleseg_slim.deploy.export import ExportResult, Shape, export, filled, parse_shape
from paddleseg_slim.deploy.runtimes.machine import describe_machine
from paddleseg_slim.errors import UserError
from paddleseg_slim.graph import GraphLayer, cost
from paddleseg_slim.report import stage
from paddleseg_slim.tasks.base import Metrics, Task

_KINDS = {"prune": "prune", "sparsify": "prune", "distill": "distill", "quantize": "quant"}
"""Steps of a model's record, and the kind of stage that they are."""


def made_by(model: GraphLayer) -> str:
    """Kind of the stage that made a model, by its record: the last compression, else ``train``."""
    steps = [_KINDS[entry["step"]] for entry in model.record if entry.get("step") in _KINDS]
    return steps[-1] if steps else "train"


def described_shape(model: GraphLayer, task: Task, config: Config) -> Shape:
    """The input shape for the description of ``model``: the config's, as `cli.export` has it, where the graph is open.

    Raises:
        UserError: the config's is malformed.
    """
    configured = parse_shape(config.export.get("input_shape"), task.input_spec()[0].shape[1])
    return filled(model.eval_graph.inputs[0].shape, configured)


def export_with_onnx(model: GraphLayer, folder: Path, task: Task, config: Config, output_op: str) -> ExportResult:
    """Export for Paddle Inference and, where the package onnx is installed, beside it as ``model.onnx``.

    An op without an ONNX function ends nothing: the log names it, and the other engine is measured alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    own = model.eval_graph.inputs[0].shape
    written = export(
        model,
        folder,
        logits=task.logits,
        shape=(own[0], own[1], own[2], own[3]),
        described=described_shape(model, task, config),
        output_op=output_op,
        transforms=task.preprocess().describe()["transforms"],  # type: ignore[attr-defined]
        class_names=task.class_names(),
        task=config.task,
    )
    if importlib.util.find_spec("onnx") is not None:
        from paddleseg_slim.deploy.prepare import add_onnx

        try:
            add_onnx(folder, written.layer)
        except UserError as error:
            runner.log("No ONNX file: %s %s", error.cause, error.remedy)
    return written


def write_stage(
    deployed: GraphLayer,
    folder: Path,
    shape: tuple[int, ...],
    metrics: Metrics,
    *,
    source: str = "model",
    files: Sequence[str] = ("model.*", "deploy.yaml"),
    **facts: Any,
) -> None:
    """Write the stage of a model that was exported.

    Args:
        deployed: what the files hold: the main logits and the output operation alone.
        folder: of the stage.
        shape: of one image, batch first.
        metrics: of the model.
        source: what they were measured of: ``model`` in memory, or the file by its engine.
        files: patterns of the files whose sizes are told.
        facts: further fields of `report.stage.Stage` (``name``, ``kind``).
    """
    made = stage.Stage(
        command=shlex.join(["python", *sys.argv]),
        accuracy=stage.Accuracy.of(metrics, source),
        params=sum(int(tensor.size) for name, tensor in deployed.tensors() if not name.startswith("quantizers.")),
        macs=cost(deployed.eval_graph, [shape]).macs,
        files=stage.file_sizes(folder, *files),
        environment=describe_machine(),
        input_shape=shape,
        **facts,
    )
    stage.write_stage(folder, made)
