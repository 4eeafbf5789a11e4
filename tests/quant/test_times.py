"""What int8 gains in each layer: every layer of the file is found in the engine, and borders count."""

from __future__ import annotations

from pathlib import Path

from quant_nets import SHAPE, images, small_model

from paddleseg_slim.cli.quant_times import LayerGain, engine_of, measure_gains, slower
from paddleseg_slim.deploy.onnx import write_onnx
from paddleseg_slim.graph import PaddleExecutor
from paddleseg_slim.quant.ptq import QuantSettings, post_quantize


def test_every_layer_has_times(tmp_path: Path) -> None:
    model = small_model()
    layer, calibration = post_quantize(model, [images()], QuantSettings(), PaddleExecutor(), SHAPE)
    files = {"float": tmp_path / "float.onnx", "quantized": tmp_path / "int8.onnx"}
    write_onnx(model, files["float"])
    write_onnx(layer, files["quantized"], int32_bias=True)
    assert engine_of(calibration.placement) == "onnxruntime"
    gains = {g.layer: g for g in measure_gains(files, calibration.layer, calibration.placement, "onnxruntime", 1)}
    assert set(gains) == set(calibration.placement.layers)
    assert all(gain.float_ms > 0 and gain.int8_ms > 0 for gain in gains.values())
    first = calibration.placement.layers[0]
    others = [gain.border_ms for name, gain in gains.items() if name != first]
    assert max(others) > 0  # a layer between others would have its input and its output converted


def test_borders_decide_for_small_layers() -> None:
    rows = [LayerGain("stem", 0.1, 0.4), LayerGain("inside", 0.04, 0.06, border_ms=0.1), LayerGain("big", 2.0, 1.0)]
    assert [row.layer for row in slower(rows)] == ["stem"]
    assert rows[2].gain_ms == 1.0
