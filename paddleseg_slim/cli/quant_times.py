"""What int8 gains in each layer on this machine: node times of the float and of the quantized file in one engine."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from paddleseg_slim.cli import runner
from paddleseg_slim.graph import cost
from paddleseg_slim.quant.placement import activation_of, fused_output

if TYPE_CHECKING:
    from paddleseg_slim.cli.quant_run import QuantRun
    from paddleseg_slim.graph import GraphLayer
    from paddleseg_slim.quant.calibrate import Calibration
    from paddleseg_slim.quant.placement import Placement

RUNS = 40


RATE_MS = 1e-6
"""Milliseconds to convert an element between float and int8 where no conversion was seen in the profile."""


@dataclass(frozen=True)
class LayerGain:
    """Milliseconds a run of one layer.

    Attributes:
        layer: name of the node.
        float_ms: in the float file.
        int8_ms: in the quantized file, with the conversion of its input where no other layer reads that.
        border_ms: what conversions around it would cost if it alone were float: of an input that another layer makes
            as integers, and of an output that another reads as such.
    """

    layer: str
    float_ms: float
    int8_ms: float
    border_ms: float = 0.0

    @property
    def gain_ms(self) -> float:
        """What the layer's int8 saves; negative: costs."""
        return self.float_ms + self.border_ms - self.int8_ms


def engine_of(placement: Placement) -> str | None:
    """The first engine of the target that is installed and tells node times."""
    from paddleseg_slim.deploy.profile import ENGINES
    from paddleseg_slim.deploy.runtimes import available_engines

    return next((name for name in placement.profile.engines if name in available_engines() and name in ENGINES), None)


def measure_gains(
    files: Mapping[str, Path], model: GraphLayer, placement: Placement, engine: str, threads: int
) -> list[LayerGain]:
    """Profile both files.

    Args:
        files: ``float`` and ``quantized``, ONNX, with the graph's names.
        model: float, with folded normalisations: what the placement was made for.
        placement: of the quantizers in the second file.
        engine: a name of `deploy.profile.ENGINES`.
        threads: CPU threads.
    """
    from paddleseg_slim.deploy.profile import profile_model

    times: dict[str, dict[str, float]] = {}
    for kind, path in files.items():
        profile = profile_model(path, engine, input_shape=placement.shape, threads=threads, runs=RUNS)
        times[kind] = {node.name: node.ms for node in profile.nodes}
    found, sizes = times["quantized"], _elements(model, placement.shape)
    spent = {site.value: found.get(f"{site.name}/QuantizeLinear", 0.0) for site in placement.activations()}
    seen = sum(sizes.get(value, 0) for value, ms in spent.items() if ms)
    rate = sum(spent.values()) / seen if seen else RATE_MS
    rows = []
    for name in placement.layers:
        if name not in times["float"] or name not in found:
            continue  # a head that is not exported
        node = model.eval_graph.node(name)
        given, made = activation_of(node), fused_output(model.eval_graph, node)
        readers = model.eval_graph.users(given)
        own = spent.get(given.name, 0.0) if len(readers) == 1 else 0.0
        border = 0.0 if spent.get(given.name) or given.producer is None else sizes.get(given.name, 0) * rate
        border += sizes.get(made.name, 0) * rate if made.name in spent else 0.0
        rows.append(LayerGain(name, times["float"][name], found[name] + own, border))
    return rows


def _elements(model: GraphLayer, shape: tuple[int, ...]) -> dict[str, int]:
    """Elements of the first output of every node, and of the input, by value name."""
    graph = model.eval_graph
    sizes = {graph.node(item.name).out.name: math.prod(item.shape) for item in cost(graph, [shape]).nodes}
    return {graph.inputs[0].name: math.prod(shape), **sizes}


def gains_of(run: QuantRun, quantized: GraphLayer, calibration: Calibration) -> list[LayerGain]:
    """Write both models of a run and profile them; nothing where no engine tells node times."""
    placement = calibration.placement
    engine = engine_of(placement)
    if engine is None:
        runner.log("No engine of the target %s tells node times: MACs are taken instead.", placement.profile.name)
        return []
    with tempfile.TemporaryDirectory() as work:
        files = {"float": Path(work) / "float.onnx", "quantized": Path(work) / "quantized.onnx"}
        run.results.write_onnx(run.model, files["float"])
        run.results.write_onnx(quantized, files["quantized"], **placement.profile.file_options())
        gains = measure_gains(files, calibration.layer, placement, engine, run.threads)
    for gain in sorted(slower(gains), key=lambda item: item.gain_ms)[:5]:
        runner.log("  slower in int8: %s (%.3f ms, float %.3f ms)", gain.layer, gain.int8_ms, gain.float_ms)
    return gains


def slower(gains: Sequence[LayerGain], least: float = 0.05) -> list[LayerGain]:
    """Layers whose int8 costs more than float and the conversions around it, by more than the noise of a profile."""
    return [gain for gain in gains if gain.gain_ms < -least * gain.int8_ms]
