"""Which layers suffer from quantization: the error at the output when a layer alone is quantized.

`layer_errors` measures it, a run of the model for each layer. `estimate_errors` tells it to first order for all layers
at once: with each value moved by a share ``t`` of its rounding error, and a random vector ``r`` of signs on the logits,
``d(r . logits) / dt`` squared has the mean ``|J e|^2``, the squared error that the rounding error ``e`` makes there
(Hutchinson 1990), so a few backward passes do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from paddleseg_slim.files import atomic_file
from paddleseg_slim.graph import Executor, GraphLayer, Value, extract
from paddleseg_slim.graph.layer import new_parameter
from paddleseg_slim.graph.ops import OpRow, register_op
from paddleseg_slim.quant.calibrate import Calibration, Choice, with_layers
from paddleseg_slim.quant.node import fake_quant, quantizers
from paddleseg_slim.quant.placement import WEIGHT_ARGUMENT, activation_of

MOVED = "slim.moved"
"""The op of `moved`."""

PROJECTIONS = 8
"""Random vectors of `estimate_errors`."""


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
    expected = logits_of(model, images, executor, logits)
    spread = max(float(expected.var()), 1e-12)
    rows = []
    for index, name in enumerate(names):
        alone = with_layers(calibration, [name]).quantized(choice)
        found = logits_of(alone, images, executor, logits)
        error = float(((found - expected) ** 2).mean()) / spread
        rows.append(LayerError(name, error, calibration.placement.macs[name]))
        if progress is not None:
            progress(index + 1, len(names))
    return sorted(rows, key=lambda row: -row.error)


def logits_of(model: GraphLayer, images: np.ndarray, executor: Executor, logits: Callable[[Any], Any]) -> np.ndarray:
    """The logits of a model on images, through an executor."""
    graph = model.eval_graph
    value: Value = logits(graph.outputs)
    part = extract(graph, graph.inputs, [value])
    runner = executor.prepare(part, {name: model.tensor(name).numpy() for name in part.parameters})
    return runner({part.inputs[0].name: images})[value.name]


def moved(
    x: Any,
    scale: Any,
    share: Any,
    zero_point: Any = None,
    bits: int = 8,
    axis: int | None = None,
    qmin: int = -127,
    qmax: int = 127,
) -> Any:
    """``x`` moved by the share ``share`` (a scalar tensor) of what rounding would change; see `node.fake_quant`."""
    with paddle.no_grad():
        change = fake_quant(x.detach(), scale, zero_point, bits, axis, qmin, qmax) - x.detach()
    return x + share * change


register_op(OpRow(MOVED, run=moved))


def estimate_errors(
    calibration: Calibration,
    choice: Choice,
    images: np.ndarray,
    logits: Callable[[Any], Any],
    projections: int = PROJECTIONS,
    seed: int = 0,
) -> list[LayerError]:
    """Estimate the rows of `layer_errors` by gradients; worst first.

    Args:
        calibration: of the model.
        choice: of ranges.
        images: float32 ``[N, C, H, W]``.
        logits: picks the logits among the outputs.
        projections: random vectors; the error of the estimate falls with the root of their number and of the images'.
        seed: of the vectors.
    """
    layer = calibration.quantized(choice)
    shares = _insert_shares(layer)
    layer.eval()
    rng = np.random.default_rng(seed)
    output = logits(layer(paddle.to_tensor(images)))
    squares = np.zeros(len(calibration.placement.layers))
    for _ in range(projections):
        signs = paddle.to_tensor(rng.integers(0, 2, output.shape).astype("float32") * 2 - 1)
        (output * signs).sum().backward(retain_graph=True)
        slopes = {name: 0.0 if share.grad is None else share.grad.item() for name, share in shares.items()}
        for place, name in enumerate(calibration.placement.layers):
            squares[place] += sum(slopes.get(quantizer, 0.0) for quantizer in _quantizers_of(layer, name)) ** 2
        for _, tensor in layer.tensors():
            if not tensor.stop_gradient:
                tensor.clear_gradient()
    spread = max(float(output.numpy().var()), 1e-12) * int(output.size) * projections
    macs = calibration.placement.macs
    rows = [
        LayerError(name, square / spread, macs[name]) for name, square in zip(calibration.placement.layers, squares)
    ]
    return sorted(rows, key=lambda row: -row.error)


def _insert_shares(layer: GraphLayer) -> dict[str, Any]:
    """Make every quantizer of the eval graph one that moves by a share of 0; the shares by name of the quantizer."""
    graph, found = layer.eval_graph, {}
    for number, node in enumerate(quantizers(graph)):
        name = f"shares.{number}"
        found[node.name] = new_parameter(paddle.zeros([]), f"share_{number}", True)
        layer.add_tensor(name, found[node.name])
        layer.add_parameter_value(name)
        node.op, node.inputs["share"] = MOVED, graph.parameters[name]
    graph.touch()
    return found


def _quantizers_of(layer: GraphLayer, name: str) -> list[str]:
    """Names of the (former) quantizers of the weight and of the input of a layer."""
    node = layer.eval_graph.node(name)
    producers = (value.producer for value in (node.value(WEIGHT_ARGUMENT[node.op]), activation_of(node)))
    return [producer.name for producer in producers if producer is not None and producer.op == MOVED]


def draw(rows: Sequence[LayerError], path: Path, estimates: Sequence[LayerError] = (), top: int = 40) -> None:
    """Draw the errors of the worst layers as bars, and what gradients tell of them as dots.

    Args:
        rows: worst first.
        path: of the PNG file.
        estimates: of `estimate_errors`, in any order.
        top: how many layers are shown.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown, known = rows[:top], {row.layer: row.error for row in estimates}
    figure, axes = pyplot.subplots(figsize=(10, 1.5 + 0.25 * len(shown)), layout="constrained")
    axes.barh(range(len(shown)), [max(row.error, 1e-9) for row in shown], color="#4c72b0", label="this layer alone")
    dots = [(known[row.layer], place) for place, row in enumerate(shown) if row.layer in known]
    if dots:
        axes.plot(*zip(*dots), "o", color="#dd8452", label="by gradients")
        axes.legend(loc="lower right")
    axes.set_yticks(range(len(shown)), [row.layer for row in shown], fontsize=7)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("squared error of the logits, as a share of their variance")
    axes.spines[["top", "right"]].set_visible(False)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
    pyplot.close(figure)
