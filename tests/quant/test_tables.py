"""Look-up tables in 8 bits: values, the stored graph, the ONNX file and its size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import paddle
import pytest
from paddle.static import InputSpec

from paddleseg_slim.deploy.onnx import write_onnx
from paddleseg_slim.errors import UserError
from paddleseg_slim.graph import GraphLayer, capture, load, save
from paddleseg_slim.quant.tables import quantize_tables

WORDS = np.arange(40).reshape(4, 10).astype("int64") * 7 % 300


class Sentence(paddle.nn.Layer):
    """An embedding and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.out = paddle.nn.Embedding(300, 64), paddle.nn.Linear(64, 5)

    def forward(self, words: paddle.Tensor) -> paddle.Tensor:
        return self.out(self.table(words).mean(1))


@pytest.fixture
def model() -> GraphLayer:
    paddle.seed(0)
    layer = capture(Sentence(), [InputSpec([None, 10], "int64", "words")])
    layer.eval()
    return layer


def result(layer: GraphLayer) -> np.ndarray:
    with paddle.no_grad():
        return layer(paddle.to_tensor(WORDS)).numpy()


@pytest.mark.parametrize(("method", "error"), [("abs_max", 0.01), ("log2", 0.25)])
def test_tables(model: GraphLayer, method: str, error: float, tmp_path: Path) -> None:
    before = result(model)
    write_onnx(model, tmp_path / "float.onnx")
    assert quantize_tables(model, method) == ["table.weight"]
    after = result(model)
    assert 0 < np.abs(after - before).max() < error * np.abs(before).max() + 1e-6
    save(model, tmp_path / "graph")
    again = load(tmp_path / "graph")
    again.eval()
    np.testing.assert_array_equal(result(again), after)
    write_onnx(model, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"words": WORDS})[0], after, atol=1e-5)
    assert (tmp_path / "model.onnx").stat().st_size < 0.4 * (tmp_path / "float.onnx").stat().st_size


def test_powers_of_two() -> None:
    from paddleseg_slim.quant.tables import log2_quant

    x = paddle.to_tensor([0.0, 1.0, -3.1, 0.7, 100.0, 2.0**-80, -(2.0**-20)])
    np.testing.assert_array_equal(log2_quant(x, 4).numpy(), [0.0, 1.0, -4.0, 0.5, 16.0, 0.0, -(2.0**-20)])


def test_a_linear_layer_by_name_and_wrong_words(model: GraphLayer) -> None:
    before = result(model)
    assert quantize_tables(model, names=["out.weight"]) == ["out.weight"]
    np.testing.assert_allclose(result(model), before, atol=0.02 * np.abs(before).max())
    with pytest.raises(UserError, match="log3"):
        quantize_tables(model, "log3")
    with pytest.raises(UserError, match="wieght"):
        quantize_tables(model, names=["out.wieght"])
