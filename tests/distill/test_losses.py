"""Every loss against its paper's formula in NumPy and SciPy, and where its gradient goes."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from scipy.special import log_softmax, softmax

from paddleseg_slim.distill import losses
from paddleseg_slim.losses import KLLoss
from paddleseg_slim.registry import LOSSES

RNG = np.random.default_rng(7)
S, T = (RNG.normal(size=(2, 5, 6, 4)).astype("float32") * 3 for _ in range(2))
LABEL = RNG.integers(0, 5, (2, 6, 4))
LABEL[0, 0, :2] = 255


def _kl(p: np.ndarray, log_p: np.ndarray, log_q: np.ndarray, axis: int) -> np.ndarray:
    return (p * (log_p - log_q)).sum(axis)


def _hinton(temperature: float) -> float:
    p, log_p, log_q = softmax(T / temperature, 1), log_softmax(T / temperature, 1), log_softmax(S / temperature, 1)
    return _kl(p, log_p, log_q, 1).mean() * temperature**2


def _cwd(temperature: float) -> float:
    s, t = (x.reshape(2, 5, -1) / temperature for x in (S, T))
    return _kl(softmax(t, 2), log_softmax(t, 2), log_softmax(s, 2), 2).sum() * temperature**2 / (5 * 2)


def _attention() -> float:
    maps = [(x**2).mean(1).reshape(2, -1) for x in (S, T)]
    s, t = (m / np.linalg.norm(m, axis=1, keepdims=True) for m in maps)
    return ((s - t) ** 2).mean()


def _pairwise() -> float:
    sims = []
    for x in (S, T):
        unit = x.reshape(2, 5, -1) / np.linalg.norm(x.reshape(2, 5, -1), axis=1, keepdims=True)
        sims.append(np.einsum("nci,ncj->nij", unit, unit))
    return ((sims[0] - sims[1]) ** 2).mean()


def _huber(delta: float) -> float:
    d = np.abs(S - T)
    return np.where(d < delta, d * d / 2 / delta, d - delta / 2).mean()


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (losses.KDLoss(1.0), _hinton(1.0)),
        (losses.KDLoss(4.0), _hinton(4.0)),
        (KLLoss(temperature=4.0), _hinton(4.0) / 5),
        (losses.DMLLoss(), _hinton(1.0)),
        (losses.CWDLoss(3.0), _cwd(3.0)),
        (losses.L2FeatureLoss(), ((S - T) ** 2).mean()),
        (losses.SmoothL1FeatureLoss(2.0), _huber(2.0)),
        (losses.AttentionTransferLoss(), _attention()),
        (losses.PairwiseLoss(pool=16), _pairwise()),
    ],
    ids=lambda value: type(value).__name__,
)
def test_formula(loss, expected):
    student = paddle.to_tensor(S, stop_gradient=False)
    value = loss(student, paddle.to_tensor(T))
    assert float(value) == pytest.approx(float(expected), rel=2e-5)
    value.backward()
    assert np.isfinite(student.grad.numpy()).all() and np.abs(student.grad.numpy()).max() > 0
    assert float(loss(paddle.to_tensor(T), paddle.to_tensor(T))) == pytest.approx(0, abs=1e-6)


def test_decoupled_distillation_is_that_of_the_paper_and_sums_up_to_hintons():
    """Zhao et al. 2022: KD = TCKD + (1 - p_t) NCKD; alpha = 1 and beta = 8 weigh the two parts."""
    temperature, valid = 4.0, LABEL.reshape(-1) != 255
    s, t = (np.moveaxis(x.astype("float64"), 1, -1).reshape(-1, 5)[valid] / temperature for x in (S, T))
    target = LABEL.reshape(-1)[valid]
    rows = np.arange(len(target))
    pt, qt = softmax(t, 1)[rows, target], softmax(s, 1)[rows, target]
    tckd = pt * np.log(pt / qt) + (1 - pt) * np.log((1 - pt) / (1 - qt))
    others = np.ones_like(s, bool)
    others[rows, target] = False
    s_rest, t_rest = s[others].reshape(-1, 4), t[others].reshape(-1, 4)
    nckd = _kl(softmax(t_rest, 1), log_softmax(t_rest, 1), log_softmax(s_rest, 1), 1)
    hinton = _kl(softmax(t, 1), log_softmax(t, 1), log_softmax(s, 1), 1)
    np.testing.assert_allclose(tckd + (1 - pt) * nckd, hinton, rtol=1e-5)
    value = losses.DKDLoss(1.0, 8.0, temperature)(*map(paddle.to_tensor, (S, T, LABEL)))
    assert float(value) == pytest.approx((tckd + 8 * nckd).mean() * temperature**2, rel=1e-4)


def test_fsp_is_the_difference_of_gram_matrices():
    other = RNG.normal(size=(2, 3, 6, 4)).astype("float32")
    g = [np.einsum("nihw,njhw->nij", x, other) / 24 for x in (S, T)]
    s, t, o = map(paddle.to_tensor, (S, T, other))
    assert float(losses.FSPLoss()([s, o], [t, o])) == pytest.approx(((g[0] - g[1]) ** 2).mean(), rel=1e-5)


def test_old_names_are_known():
    assert LOSSES.get("SegChannelwiseLoss") is losses.CWDLoss
    assert LOSSES.get("SegPairWiseLoss") is losses.PairwiseLoss
