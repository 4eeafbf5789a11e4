"""Gradients of the trained quantizers against the formulas of the papers, written out by hand."""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest

from paddleseg_slim.errors import UserError
from paddleseg_slim.quant.quantizers import DSQ_ALPHA, get_quantizer, train_quant

X = np.array([-1.3, -0.42, -0.1, 0.04, 0.26, 0.61, 0.98, 2.5], "float32")
UP = np.array([1.0, 2.0, -1.0, 0.5, 1.0, 3.0, -2.0, 4.0], "float32")


def gradients(name: str, qmin: int, qmax: int, scale: float = 0.1, zero: float | None = None) -> tuple:
    x = paddle.to_tensor(X, stop_gradient=False)
    s = paddle.to_tensor(scale, stop_gradient=not get_quantizer(name, "activations").learns_scale)
    z = None if zero is None else paddle.to_tensor(zero, stop_gradient=False)
    out = train_quant(x, s, z, 4, None, qmin, qmax, name)
    (out * paddle.to_tensor(UP)).sum().backward()
    return out.numpy(), x.grad.numpy(), s, z


def test_lsq() -> None:
    """Esser et al. 2020, eq. 2, 3 and section 2.2."""
    out, to_x, s, _ = gradients("LSQ", -8, 7)
    v = X / 0.1
    inside = (v > -8.5) & (v < 7.5)
    np.testing.assert_allclose(out, np.clip(np.rint(v), -8, 7) * 0.1, atol=1e-6)
    np.testing.assert_allclose(to_x, UP * inside)
    slope = np.where(inside, np.rint(v) - v, np.where(v < 0, -8, 7))
    assert s.grad.item() == pytest.approx((UP * slope).sum() / math.sqrt(len(X) * 8), rel=1e-5)


def test_lsq_plus_learns_its_zero_point() -> None:
    """Bhalgat et al. 2020: the offset moves what is clipped, and nothing else."""
    _, _, s, z = gradients("LSQ+", 0, 15, zero=5.0)
    level = np.rint(X / 0.1) + 5
    inside = (level >= 0) & (level <= 15)
    factor = 1 / math.sqrt(len(X) * 15)
    assert z.grad.item() == pytest.approx(-(UP * 0.1 * ~inside).sum() * factor, rel=1e-5)
    slope = np.where(inside, np.rint(X / 0.1) - X / 0.1, np.clip(level, 0, 15) - 5)
    assert s.grad.item() == pytest.approx((UP * slope).sum() * factor, rel=1e-5)


def test_pact() -> None:
    """Choi et al. 2018, eq. 3: the gradient of alpha = 15 * scale is 1 at and above alpha, 0 below."""
    out, to_x, s, _ = gradients("PACT", 0, 15, scale=0.04)
    alpha = 0.6
    np.testing.assert_allclose(out, np.clip(np.rint(X / 0.04), 0, 15) * 0.04, atol=1e-6)
    over = np.rint(X / 0.04) > 15
    assert over.tolist() == [bool(x > alpha + 0.02) for x in X]
    np.testing.assert_allclose(to_x, UP * (~over & (X > -0.02)))
    assert s.grad.item() / 15 == pytest.approx(UP[over].sum(), rel=1e-5)


def test_dsq() -> None:
    """Gong et al. 2019, eq. 3 - 8: the derivative of the staircase of tanh."""
    _, to_x, _, _ = gradients("DSQ", -8, 7)
    scale, k = 0.1, math.log(2 / DSQ_ALPHA - 1) / 0.1

    def soft(x: np.ndarray) -> np.ndarray:
        lower = np.floor(x / scale) * scale
        middle = lower + scale / 2
        return lower + scale * (np.tanh(k * (x - middle)) / (1 - DSQ_ALPHA) + 1) / 2

    # the scale is a moving average that has moved before rounding: 0.9 * 0.1 + 0.1 * 2.5 / 7
    scale = 0.9 * 0.1 + 0.1 * 2.5 / 7
    k = math.log(2 / DSQ_ALPHA - 1) / scale
    inside = (X / scale > -8) & (X / scale < 7)
    wide, step = X.astype("float64"), 1e-6
    numeric = (soft(wide + step) - soft(wide - step)) / (2 * step)
    np.testing.assert_allclose(to_x, UP * numeric * inside, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("abs_max", 2.5 / 7), ("moving_average_abs_max", 0.09 + 0.1 * 2.5 / 7), ("range_abs_max", 2.5 / 7)],
)
def test_scales_follow_the_batch(name: str, expected: float) -> None:
    *_, s, _ = gradients(name, -7, 7)
    assert s.item() == pytest.approx(expected, rel=1e-5)


def test_channel_wise_and_frozen() -> None:
    weight = paddle.to_tensor(np.array([[1.0, -4.0], [0.5, 0.25]], "float32"), stop_gradient=False)
    scale = paddle.to_tensor([9.0, 9.0])
    train_quant(weight, scale, None, 8, 0, -4, 4, "channel_wise_abs_max")
    np.testing.assert_allclose(scale.numpy(), [1.0, 0.125])
    frozen = paddle.to_tensor(9.0)
    train_quant(weight, frozen, None, 8, None, -4, 4, "moving_average_abs_max", moving_rate=1.0)
    assert frozen.item() == 9.0


def test_unknown_names() -> None:
    with pytest.raises(UserError, match="channel_wise_abs_max"):
        get_quantizer("channel_abs_max", "weights")
    with pytest.raises(UserError, match="PACT"):
        get_quantizer("PACT", "weights")
