"""Quantization after training: from a float model and calibration images to a quantized model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from paddleseg_slim.errors import UserError
from paddleseg_slim.graph import Executor, GraphLayer, fold_batch_norm, refresh_shapes
from paddleseg_slim.quant.calibrate import Calibration, Choice, calibrate, with_layers
from paddleseg_slim.quant.equalize import equalize
from paddleseg_slim.quant.node import OP, Grid
from paddleseg_slim.quant.placement import Placement, plan
from paddleseg_slim.quant.profiles import get_profile
from paddleseg_slim.version import __version__

STEP = "quantize"
"""Name of this step in the compression record."""

WEIGHT_TYPES = {"channel_wise_abs_max": True, "abs_max": False}
"""``weight_quantize_type`` of PaddleSlim -> whether each output channel has a scale of its own."""


@dataclass(frozen=True)
class QuantSettings:
    """What to quantize and how, for training and after it.

    Attributes:
        target: name of the profile.
        weight_bits: width of a weight; None: the profile's.
        activation_bits: width of an activation; None: the profile's.
        weight_type: a key of `WEIGHT_TYPES`.
        skip: regular expressions; layers whose names match stay float.
        keep_float: names of layers that stay float.
        ops: ops that are quantized; None: the profile's.
        all_layers: also logits and tiny layers.
        equalize: equalize the layers first.
        choice: how ranges are chosen.
    """

    target: str = "cpu"
    weight_bits: int | None = None
    activation_bits: int | None = None
    weight_type: str = "channel_wise_abs_max"
    skip: tuple[str, ...] = ()
    keep_float: tuple[str, ...] = ()
    ops: tuple[str, ...] | None = None
    all_layers: bool = False
    equalize: bool = False
    choice: Choice = field(default_factory=Choice)

    def __post_init__(self) -> None:
        if self.weight_type not in WEIGHT_TYPES:
            raise UserError(
                f"The weight quantization {self.weight_type!r} is not known.", f"Choose of {', '.join(WEIGHT_TYPES)}."
            )


def prepare(model: GraphLayer, settings: QuantSettings, shape: Sequence[int]) -> tuple[GraphLayer, Placement]:
    """Copy a model, fold its normalisations and decide where quantizers stand.

    Args:
        model: float; left as it is.
        settings: what to quantize.
        shape: of an input, ``(1, 3, 512, 512)``.

    Raises:
        UserError: see `placement.plan`.
    """
    refuse_quantized(model)
    profile = get_profile(settings.target).with_bits(settings.weight_bits, settings.activation_bits)
    layer = copy.deepcopy(model)
    layer.eval()
    if fold_batch_norm(layer):
        for graph in layer.graphs:
            refresh_shapes(graph)
    if settings.equalize:
        equalize(layer)
    placement = plan(
        layer,
        profile,
        shape,
        skip=settings.skip,
        keep_float=settings.keep_float,
        ops=settings.ops,
        per_channel=WEIGHT_TYPES[settings.weight_type],
        all_layers=settings.all_layers,
    )
    return layer, placement


def refuse_quantized(model: GraphLayer) -> None:
    """Refuse a model with quantizers in it.

    Raises:
        UserError: it has some.
    """
    if any(node.op == OP for graph in model.graphs for node in graph.nodes):
        raise UserError("The model is quantized already.", "Start from the float model.")


def post_quantize(
    model: GraphLayer, batches: Iterable[np.ndarray], settings: QuantSettings, executor: Executor, shape: Sequence[int]
) -> tuple[GraphLayer, Calibration]:
    """Quantize a trained model.

    Args:
        model: float; left as it is.
        batches: calibration images, float32 ``[N, C, H, W]``.
        settings: what and how.
        executor: the engine for the calibration pass.
        shape: of an input, for the MACs.

    Returns:
        the quantized model with its entry in the compression record, and the calibration, of which other choices of
        ranges or layers can be made without another pass.
    """
    layer, placement = prepare(model, settings, shape)
    calibration = calibrate(layer, placement, batches, executor)
    result = calibration.quantized(settings.choice)
    result.record.append(entry_of(calibration.placement, settings, "ptq", images=calibration.images))
    return result, calibration


def entry_of(placement: Placement, settings: QuantSettings, method: str, **more: Any) -> dict[str, Any]:
    """The entry of the compression record."""
    return {
        "step": STEP,
        "version": __version__,
        "method": method,
        "target": placement.profile.name,
        "weight_bits": placement.profile.weight_bits,
        "activation_bits": placement.profile.activation_bits,
        "weight_type": settings.weight_type,
        "bias": placement.profile.bias,
        "layers": list(placement.layers),
        "left_float": dict(placement.left),
        "macs_share": placement.macs_share,
        **more,
    }


def target_of(layer: GraphLayer) -> str | None:
    """The target that a model was quantized for; None for a float model."""
    return next((entry["target"] for entry in reversed(layer.record) if entry.get("step") == STEP), None)


def check_target(layer: GraphLayer, target: str) -> None:
    """Refuse to export a model for another target than the one it was quantized for.

    Raises:
        UserError: they differ.
    """
    found = target_of(layer)
    if found is not None and found != target:
        raise UserError(
            f"The model was quantized for the target {found}, not for {target}.",
            f"Quantize the float model again with --target {target}.",
        )


@dataclass(frozen=True)
class Controlled:
    """A quantized model with as many layers in float as an accuracy limit needed.

    Attributes:
        layer: the quantized model.
        calibration: its calibration and placement.
        score: of it.
        kept: layers that had to stay float, worst first.
    """

    layer: GraphLayer
    calibration: Calibration
    score: float
    kept: tuple[str, ...]


def within_drop(
    calibration: Calibration,
    choice: Choice,
    order: Sequence[str],
    score: Callable[[GraphLayer], float],
    least: float,
    always: Collection[str] = (),
) -> Controlled:
    """Keep layers float, the most sensitive first, until the score is reached; the number is found by bisection.

    Args:
        calibration: of all layers.
        choice: of ranges.
        order: layers, most sensitive first.
        score: of a model; higher is better.
        least: score to reach.
        always: layers that stay float in any case.

    Returns:
        the model that reaches it with the fewest float layers; where none does, that with the most.
    """

    def made(count: int) -> Controlled:
        kept = tuple(order[:count])
        out = {*kept, *always}
        part = with_layers(calibration, [name for name in calibration.placement.layers if name not in out])
        layer = part.quantized(choice)
        return Controlled(layer, part, score(layer), kept)

    low, high = 0, len(order) - 1
    best = made(0)
    if best.score >= least or high < 1:
        return best
    best = made(high)
    while high - low > 1 and best.score >= least:
        middle = (low + high) // 2
        tried = made(middle)
        if tried.score >= least:
            best, high = tried, middle
        else:
            low = middle
    return best


def calibration_table(layer: GraphLayer) -> str:
    """Every activation's range as lines ``value scale zero_point low high``, after a line that says what they are."""
    lines = ["# value scale zero_point low high"]
    for node in layer.eval_graph.nodes:
        if node.op != OP or layer.eval_graph.parameter_name(node.value("x")):
            continue
        grid = Grid.of(node)
        scale = float(layer.tensor(node.value("scale").name).item())
        zero = node.inputs.get("zero_point")
        point = int(layer.tensor(zero.name).item()) if zero is not None else 0  # type: ignore[union-attr]
        low, high = (grid.qmin - point) * scale, (grid.qmax - point) * scale
        lines.append(f"{node.value('x').name} {scale:.9g} {point} {low:.6g} {high:.6g}")
    return "\n".join(lines) + "\n"
