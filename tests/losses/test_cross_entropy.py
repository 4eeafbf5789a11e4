"""The cross-entropy losses against NumPy and SciPy in float64."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from scipy.special import log_softmax

from paddleseg_slim.errors import UserError
from paddleseg_slim.losses import BootstrappedCrossEntropyLoss, CrossEntropyLoss, OhemCrossEntropyLoss

CLASSES = 5
WEIGHT = [1.0, 2.0, 0.5, 3.0, 1.5]
IGNORED = pytest.mark.parametrize("ignored", [False, True])


def batch(ignored: bool = False, value: int = 255) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    logits = 3 * rng.standard_normal((2, CLASSES, 11, 13), dtype=np.float32)
    label = rng.integers(0, CLASSES, (2, 11, 13))
    if ignored:
        label[:, :4] = value
    return logits, label


def run(loss, logits: np.ndarray, label: np.ndarray, **others: paddle.Tensor) -> float:
    return float(loss(paddle.to_tensor(logits), paddle.to_tensor(label), **others))


def by_hand(logits: np.ndarray, label: np.ndarray, ignore: int = 255) -> tuple[np.ndarray, np.ndarray]:
    """Loss of every pixel, and which pixels count."""
    known = label != ignore
    rows = np.moveaxis(log_softmax(logits.astype(np.float64), axis=1), 1, -1)
    loss = -np.take_along_axis(rows, np.where(known, label, 0)[..., None], -1)[..., 0]
    return loss, known


@IGNORED
def test_mean_over_labelled_pixels(ignored: bool) -> None:
    logits, label = batch(ignored)
    loss, known = by_hand(logits, label)
    assert run(CrossEntropyLoss(), logits, label) == pytest.approx(loss[known].mean(), rel=1e-5)
    assert run(CrossEntropyLoss(), logits, label[:, None].astype(np.int32)) == pytest.approx(
        loss[known].mean(), rel=1e-5
    )
    everywhere = (loss * known).mean()
    assert run(CrossEntropyLoss(avg_non_ignore=False), logits, label) == pytest.approx(everywhere, rel=1e-5)


@IGNORED
def test_weighted_mean(ignored: bool) -> None:
    logits, label = batch(ignored)
    loss, known = by_hand(logits, label)
    expected = np.average(loss[known], weights=np.array(WEIGHT)[label[known]])
    assert run(CrossEntropyLoss(weight=WEIGHT), logits, label) == pytest.approx(expected, rel=1e-5)


def test_another_ignored_value_and_layout() -> None:
    logits, label = batch(ignored=True, value=-1)
    loss, known = by_hand(logits, label, -1)
    nhwc = CrossEntropyLoss(ignore_index=-1, data_format="NHWC")
    assert run(nhwc, np.moveaxis(logits, 1, -1), label) == pytest.approx(loss[known].mean(), rel=1e-5)


@IGNORED
def test_only_the_hardest_share(ignored: bool) -> None:
    logits, label = batch(ignored)
    loss, known = by_hand(logits, label)
    count = int(0.3 * label.size)
    expected = np.sort((loss * known).ravel())[-count:].mean()
    assert run(CrossEntropyLoss(top_k_percent_pixels=0.3), logits, label) == pytest.approx(expected, rel=1e-5)


def test_hardest_share_with_weights() -> None:
    logits, label = batch()
    loss, _ = by_hand(logits, label)
    weight = np.array(WEIGHT)[label].ravel()
    hardest = np.argsort(loss.ravel() * weight)[-int(0.3 * label.size) :]
    expected = np.average(loss.ravel()[hardest], weights=weight[hardest])
    found = run(CrossEntropyLoss(weight=WEIGHT, top_k_percent_pixels=0.3), logits, label)
    assert found == pytest.approx(expected, rel=1e-5)


def test_pixel_weights() -> None:
    logits, label = batch()
    loss, _ = by_hand(logits, label)
    weight = np.random.default_rng(1).random(label.shape, dtype=np.float32)
    found = run(CrossEntropyLoss(), logits, label, semantic_weights=paddle.to_tensor(weight))
    assert found == pytest.approx((loss * weight).mean(), rel=1e-5)


def test_a_classifier_has_no_pixels() -> None:
    logits, label = batch()
    loss, _ = by_hand(logits[:, :, 0, 0], label[:, 0, 0])
    assert run(CrossEntropyLoss(), logits[:, :, 0, 0], label[:, 0, 0]) == pytest.approx(loss.mean(), rel=1e-5)


def ohem(logits: np.ndarray, label: np.ndarray, thresh: float, min_kept: int) -> float:
    loss, known = by_hand(logits, label)
    probability = np.where(known, np.exp(-loss), 2.0).ravel()
    kept = known.ravel()
    if 0 < min_kept < kept.sum():
        kept = kept & (probability < max(thresh, np.sort(probability)[min_kept - 1]))
    return loss.ravel()[kept].mean() * kept.mean() / (kept.mean() + 1e-5)


@IGNORED
@pytest.mark.parametrize(("thresh", "min_kept"), [(0.7, 50), (1e-3, 50), (0.3, 180), (0.3, 0), (0.5, 10**6), (0.0, 9)])
def test_ohem(thresh: float, min_kept: int, ignored: bool) -> None:
    logits, label = batch(ignored)
    expected = ohem(logits, label, thresh, min_kept)
    assert run(OhemCrossEntropyLoss(thresh, min_kept), logits, label) == pytest.approx(expected, rel=1e-4)


@IGNORED
@pytest.mark.parametrize("weight", [None, WEIGHT])
@pytest.mark.parametrize(("min_kept", "threshold"), [(20, 0.5), (60, 12.0), (10**6, 50.0)])
def test_bootstrapped(min_kept: int, threshold: float, weight: list[float] | None, ignored: bool) -> None:
    logits, label = batch(ignored)
    loss, known = by_hand(logits, label)
    loss = loss * known * (1 if weight is None else np.array(weight)[np.where(known, label, 0)])
    means = []
    for image in loss.reshape(2, -1):
        ranked = np.sort(image)[::-1]
        many = min_kept < image.size and ranked[min_kept] > threshold
        means.append(ranked[ranked > threshold].mean() if many else ranked[:min_kept].mean())
    found = run(BootstrappedCrossEntropyLoss(min_kept, threshold, weight), logits, label)
    assert found == pytest.approx(np.mean(means), rel=1e-5)


@pytest.mark.parametrize(
    "loss",
    [CrossEntropyLoss(), CrossEntropyLoss(weight=WEIGHT), OhemCrossEntropyLoss(), OhemCrossEntropyLoss(min_kept=20)],
)
def test_all_ignored_is_zero_with_a_zero_gradient(loss) -> None:
    logits, label = batch()
    x = paddle.to_tensor(logits, stop_gradient=False)
    value = loss(x, paddle.full(label.shape, 255, "int64"))
    value.backward()
    assert float(value) == 0.0
    assert float(x.grad.abs().sum()) == 0.0


@pytest.mark.parametrize(
    "make",
    [
        lambda: CrossEntropyLoss(top_k_percent_pixels=0.0),
        lambda: CrossEntropyLoss(top_k_percent_pixels=20),
        lambda: CrossEntropyLoss(data_format="CHWN"),
        lambda: CrossEntropyLoss(weight=[1, 2])(*map(paddle.to_tensor, batch())),
    ],
)
def test_what_makes_no_sense_is_refused(make) -> None:
    with pytest.raises(UserError):
        make()
