"""The quantizer op: its values against ONNX Runtime, its gradient against the formula."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import paddle
import pytest
from onnx import TensorProto, helper

from paddleseg_slim.quant.node import Grid, fake_quant, fake_quantize_array, symmetric, unsigned

X = np.concatenate([np.linspace(-3, 3, 241), np.array([0.5, 1.5, 2.5]) * 0.02]).astype("float32").reshape(2, -1)


def onnx_round_trip(x: np.ndarray, scale: np.ndarray, zero: np.ndarray, axis: int) -> np.ndarray:
    kind = TensorProto.INT8 if zero.dtype == np.int8 else TensorProto.UINT8
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], axis=axis),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], axis=axis),
    ]
    constants = [
        helper.make_tensor("s", TensorProto.FLOAT, scale.shape, scale.reshape(-1)),
        helper.make_tensor("z", kind, zero.shape, zero.reshape(-1)),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, x.shape)],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


@pytest.mark.parametrize("zero", [0, 128, 37])
def test_unsigned_equals_onnx(zero: int) -> None:
    expected = onnx_round_trip(X, np.float32(0.02), np.array(zero, np.uint8), 1)
    found = fake_quant(paddle.to_tensor(X), paddle.to_tensor(0.02), paddle.to_tensor(float(zero)), 8, None, 0, 255)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(fake_quantize_array(X, np.float32(0.02), unsigned(8), zero), expected, atol=1e-6)


def test_per_channel_equals_onnx() -> None:
    scale = np.array([0.03, 0.4], "float32")
    expected = onnx_round_trip(X, scale, np.zeros(2, np.int8), 0)
    found = fake_quant(paddle.to_tensor(X), paddle.to_tensor(scale), None, 8, 0, -128, 127)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


def test_gradient_passes_inside_and_stops_where_clipped() -> None:
    x = paddle.to_tensor([-2.0, -0.3, 0.0, 0.7, 1.2, 3.0], stop_gradient=False)
    fake_quant(x, paddle.to_tensor(0.01), None, 8, None, 0, 127).sum().backward()
    assert x.grad.numpy().tolist() == [0, 0, 1, 1, 1, 0]


@pytest.mark.parametrize("bits", range(2, 9))
def test_grids_have_the_width_asked_for(bits: int) -> None:
    assert unsigned(bits).steps == 2**bits - 1
    assert symmetric(bits).steps == 2**bits - 2
    assert symmetric(bits).qmin == -symmetric(bits).qmax
    values = np.unique(fake_quantize_array(X, np.float32(3 / symmetric(bits).qmax), symmetric(bits)))
    assert len(values) <= 2**bits - 1


def test_a_static_program_computes_the_same() -> None:
    scale = paddle.to_tensor(0.02)

    class Rounds(paddle.nn.Layer):
        def forward(self, x: paddle.Tensor) -> paddle.Tensor:
            return fake_quant(x, scale, None, 8, None, -127, 127)

    spec = [paddle.static.InputSpec([2, None], "float32")]
    static = paddle.jit.to_static(Rounds(), input_spec=spec, full_graph=True)
    expected = fake_quantize_array(X, np.float32(0.02), Grid(8, -127, 127))
    np.testing.assert_allclose(static(paddle.to_tensor(X)).numpy(), expected, atol=1e-6)
