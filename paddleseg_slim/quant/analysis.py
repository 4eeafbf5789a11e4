"""Which layers suffer from quantization: the error at the output when a layer alone is quantized."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from paddleseg_slim.graph import Executor, GraphLayer, Value, extract
from paddleseg_slim.quant.calibrate import Calibration, Choice, with_layers


@dataclass(frozen=True)
class LayerError:
    """One row of the analysis.

    Attributes:
        layer: name of the node.
        error: mean squared error of the logits when this layer alone is quantized, as a share of their variance.
        macs: of the layer.
    """

    layer: str
    error: float
    macs: int


def layer_errors(
    calibration: Calibration,
    choice: Choice,
    images: np.ndarray,
    executor: Executor,
    logits: Callable[[Any], Any],
    layers: Sequence[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[LayerError]:
    """Quantize each layer alone and compare the logits with the float model's; worst first.

    Args:
        calibration: of the model.
        choice: of ranges.
        images: float32 ``[N, C, H, W]``.
        executor: the engine to run in.
        logits: picks the logits among the outputs, as `tasks.base.Task.logits`.
        layers: names; None: all that are quantized.
        progress: called with the number done and the number of all.
    """
    model = calibration.layer
    names = list(calibration.placement.layers if layers is None else layers)
    expected = _logits(model, images, executor, logits)
    spread = max(float(expected.var()), 1e-12)
    rows = []
    for index, name in enumerate(names):
        alone = with_layers(calibration, [name]).quantized(choice)
        found = _logits(alone, images, executor, logits)
        error = float(((found - expected) ** 2).mean()) / spread
        rows.append(LayerError(name, error, calibration.placement.macs[name]))
        if progress is not None:
            progress(index + 1, len(names))
    return sorted(rows, key=lambda row: -row.error)


def _logits(model: GraphLayer, images: np.ndarray, executor: Executor, logits: Callable[[Any], Any]) -> np.ndarray:
    graph = model.eval_graph
    value: Value = logits(graph.outputs)
    part = extract(graph, graph.inputs, [value])
    runner = executor.prepare(part, {name: model.tensor(name).numpy() for name in part.parameters})
    return runner({part.inputs[0].name: images})[value.name]
