"""Quantization after training: what is written equals what was in memory, is integer in the engine, and is close."""

from __future__ import annotations

import copy
import time
from pathlib import Path

import cv2
import numpy as np
import paddle
import pytest
from quant_nets import SHAPE, images, small_model
from scipy.stats import spearmanr

from paddleseg_slim.deploy.executor import executor
from paddleseg_slim.deploy.onnx import write_onnx
from paddleseg_slim.deploy.runtimes import RuntimeOptions
from paddleseg_slim.deploy.runtimes import load as load_runtime
from paddleseg_slim.errors import UserError
from paddleseg_slim.graph import GraphLayer, PaddleExecutor, fold_batch_norm, load, save
from paddleseg_slim.quant.analysis import draw, estimate_errors, layer_errors
from paddleseg_slim.quant.calibrate import Calibration, Choice
from paddleseg_slim.quant.compare import compare, twenty
from paddleseg_slim.quant.equalize import equalize
from paddleseg_slim.quant.insert import integer_weights, remove_quantizers
from paddleseg_slim.quant.ptq import (
    QuantSettings,
    calibration_table,
    check_target,
    post_quantize,
    prepare,
    within_drop,
)
from paddleseg_slim.quant.reconstruct import _Reconstruction, reconstruct

TEST = images(8, seed=5)


def run(model: GraphLayer, x: np.ndarray = TEST) -> np.ndarray:
    with paddle.no_grad():
        return model(paddle.to_tensor(x)).numpy()


@pytest.fixture(scope="module")
def source() -> GraphLayer:
    return small_model()


@pytest.fixture(scope="module")
def done(source: GraphLayer) -> tuple[GraphLayer, Calibration]:
    batches = [images(8, seed=1), images(8, seed=2)]
    return post_quantize(source, batches, QuantSettings(), executor("onnxruntime", 1), SHAPE)


def test_close_to_the_float_model_which_stays_as_it_is(source: GraphLayer, done: tuple) -> None:
    layer, calibration = done
    assert calibration.images == 16
    error = np.sqrt(((run(layer) - run(source)) ** 2).mean()) / run(source).std()
    assert 0 < error < 0.05
    assert not any(node.op.startswith("slim.") for node in source.eval_graph.nodes)


def test_the_file_is_integer_and_agrees(done: tuple, tmp_path: Path) -> None:
    layer, calibration = done
    write_onnx(layer, tmp_path / "model.onnx", int32_bias=True)
    runtime = load_runtime(tmp_path / "model.onnx", "onnxruntime", RuntimeOptions(threads=1))
    info = runtime.describe()
    assert info.quantized_convs == len(calibration.placement.layers) == info.conv_precisions["int8"]
    assert info.fallbacks == 0
    found = runtime(TEST)[0]
    assert (found.argmax(1) == run(layer).argmax(1)).mean() >= 0.995
    np.testing.assert_allclose(found, run(layer), atol=0.05 * np.ptp(found))


def test_saved_and_loaded(done: tuple, tmp_path: Path) -> None:
    layer, _ = done
    save(layer, tmp_path / "graph")
    again = load(tmp_path / "graph")
    again.eval()
    np.testing.assert_array_equal(run(again), run(layer))
    assert again.record[-1]["target"] == "cpu" and again.record[-1]["macs_share"] > 0.95
    check_target(again, "cpu")
    with pytest.raises(UserError, match="--target tensorrt"):
        check_target(again, "tensorrt")
    with pytest.raises(UserError, match="quantized already"):
        prepare(again, QuantSettings(), SHAPE)


def test_weights_are_integers_of_the_width(done: tuple) -> None:
    integers = integer_weights(done[0])
    assert len(integers) == 6
    assert max(np.abs(array).max() for name, array in integers.items() if name != "depthwise.0.weight") == 63


def test_taking_the_quantizers_out_gives_the_float_function_back(source: GraphLayer, done: tuple) -> None:
    layer = done[1].quantized(Choice(bias_correction=False))
    remove_quantizers(layer)
    np.testing.assert_allclose(run(layer), run(source), atol=2e-3)  # biases stay rounded to int32 steps


def test_the_table_has_a_line_for_each_range(done: tuple) -> None:
    layer, calibration = done
    lines = calibration_table(layer).splitlines()[1:]
    assert len(lines) == len(calibration.placement.activations())
    name, scale, zero, low, high = lines[0].split()
    assert name == "x" and int(zero) == 128
    assert float(low) == pytest.approx(-128 * float(scale), rel=1e-4) and float(high) > 0


def test_bias_correction_keeps_the_mean(source: GraphLayer) -> None:
    settings = QuantSettings(weight_bits=3, weight_type="abs_max")
    _, calibration = post_quantize(source, [images(16)], settings, PaddleExecutor(), SHAPE)
    expected = run(source, images(16)).mean((0, 2, 3))
    shift = [
        np.abs(run(calibration.quantized(Choice(bias_correction=b)), images(16)).mean((0, 2, 3)) - expected).mean()
        for b in (False, True)
    ]
    assert shift[1] < 0.6 * shift[0]


def test_equalization_changes_no_function_and_evens_out(source: GraphLayer) -> None:
    layer = copy.deepcopy(source)
    fold_batch_norm(layer)
    with paddle.no_grad():
        weight = layer.tensor("branch.0.weight").numpy()
        weight[3] *= 50.0
        layer.set_tensor("branch.0.weight", weight)
    before = run(layer)
    assert equalize(layer) >= 1
    np.testing.assert_allclose(run(layer), before, atol=2e-3 * np.abs(before).max())
    rows = np.abs(layer.tensor("branch.0.weight").numpy()).reshape(16, -1).max(1)
    assert rows.max() / rows.min() < 15


@pytest.mark.parametrize("steps", [0, 40])
def test_reconstruction_beats_rounding_to_nearest(source: GraphLayer, steps: int) -> None:
    batches = [images(16, seed=1)]
    layer, calibration = post_quantize(source, batches, QuantSettings(weight_bits=3), PaddleExecutor(), SHAPE)
    before = ((run(layer) - run(source)) ** 2).mean()
    scales = {name: t.numpy().copy() for name, t in layer.tensors() if name.endswith(".scale")}
    report = reconstruct(layer, calibration.layer, batches, 60, steps=steps, int32_bias=True)
    assert len(report.layers) == 6 and bool(report.blocks) == bool(steps) and not report.left_out
    assert all(after <= start for start, after in (*report.layers.values(), *report.blocks.values()))
    assert ((run(layer) - run(source)) ** 2).mean() < 0.7 * before
    for name, array in scales.items():
        np.testing.assert_array_equal(layer.tensor(name).numpy(), array)
    assert max(np.abs(array).max() for name, array in integer_weights(layer).items()) == 3


def test_training_alone_improves_blocks_that_were_rounded_to_nearest(source: GraphLayer) -> None:
    batches = [images(16, seed=1)]
    layer, calibration = post_quantize(source, batches, QuantSettings(weight_bits=3), PaddleExecutor(), SHAPE)
    walk = _Reconstruction(layer, calibration.layer, batches[0], PaddleExecutor(), 0)
    walk.train(time.monotonic() + 60, 60)
    assert len(walk.report.blocks) == 2 and min(b / a for a, b in walk.report.blocks.values()) < 0.97


def test_analysis_finds_the_layer_that_was_spoilt(source: GraphLayer) -> None:
    layer = copy.deepcopy(source)
    weight = layer.tensor("fuse.0.weight").numpy()
    weight[:, :, 0, 0] += 0.3  # what the rest of each channel is rounded by
    layer.set_tensor("fuse.0.weight", weight)
    settings = QuantSettings(weight_bits=2)
    _, calibration = post_quantize(layer, [images()], settings, PaddleExecutor(), SHAPE)
    rows = layer_errors(calibration, Choice(), TEST, PaddleExecutor(), lambda outputs: outputs)
    assert rows[0].layer == "fuse.0" and len(rows) == 6
    assert rows[0].error > rows[-1].error > 0


def test_settings_are_compared_as_if_each_was_made_alone(source: GraphLayer) -> None:
    _, calibration = post_quantize(source, [images()], QuantSettings(weight_bits=4), PaddleExecutor(), SHAPE)
    rows = compare(calibration, twenty(), TEST, lambda outputs: outputs)
    assert len(rows) == 20 == len({row.choice for row in rows})
    assert [row.error for row in rows] == sorted(row.error for row in rows)
    for row in (rows[0], rows[-1]):
        alone = run(calibration.quantized(row.choice))
        error = np.sqrt(((alone - run(source)) ** 2).mean()) / run(source).std()
        assert row.error == pytest.approx(error, rel=1e-3)


def test_gradients_tell_the_errors_of_single_layers(source: GraphLayer, tmp_path: Path) -> None:
    _, calibration = post_quantize(source, [images()], QuantSettings(weight_bits=6), PaddleExecutor(), SHAPE)
    choice = Choice(bias_correction=False)
    measured = layer_errors(calibration, choice, TEST, PaddleExecutor(), lambda outputs: outputs)
    found = {r.layer: r.error for r in estimate_errors(calibration, choice, TEST, lambda o: o, projections=32)}
    assert set(found) == {row.layer for row in measured}
    for row in measured:
        assert found[row.layer] == pytest.approx(row.error, rel=0.7)
    assert spearmanr([row.error for row in measured], [found[row.layer] for row in measured])[0] > 0.75
    draw(measured, tmp_path / "errors.png", estimate_errors(calibration, Choice(), TEST[:2], lambda o: o, 1))
    assert cv2.imread(str(tmp_path / "errors.png")).shape[0] > 200


def test_accuracy_control_keeps_few_layers(source: GraphLayer) -> None:
    _, calibration = post_quantize(source, [images()], QuantSettings(weight_bits=2), PaddleExecutor(), SHAPE)
    expected = run(source)

    def score(layer: GraphLayer) -> float:
        return float((run(layer).argmax(1) == expected.argmax(1)).mean())

    order = [row.layer for row in layer_errors(calibration, Choice(), TEST, PaddleExecutor(), lambda o: o)]
    everything = score(calibration.quantized())
    found = within_drop(calibration, Choice(), order, score, everything + 0.5 * (1 - everything))
    assert found.score >= everything + 0.5 * (1 - everything) and 0 < len(found.kept) < 6
    assert found.kept == tuple(order[: len(found.kept)])
    assert set(found.kept) <= set(found.calibration.placement.left)


@pytest.mark.parametrize(
    ("batches", "words"),
    [([], "no calibration image"), ([np.ones((4, 3, 32, 32), "float32")], "same constant")],
)
def test_useless_images_are_refused(source: GraphLayer, batches: list, words: str) -> None:
    with pytest.raises(UserError, match=words):
        post_quantize(source, batches, QuantSettings(), PaddleExecutor(), SHAPE)


def test_few_images_are_warned_about(source: GraphLayer, caplog: pytest.LogCaptureFixture) -> None:
    post_quantize(source, [images(2)], QuantSettings(), PaddleExecutor(), SHAPE)
    assert "Only 2 calibration images" in caplog.text
