"""Top-k accuracy against sorting; AUC against counting every pair."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from scipy.special import logsumexp, softmax
from scipy.stats import mannwhitneyu

from paddleseg_slim.errors import UserError
from paddleseg_slim.metrics import AucAccumulator, ClassificationAccumulator
from paddleseg_slim.metrics.auc import score_bins
from paddleseg_slim.metrics.topk import rank_of_label


def test_topk_equals_sorting() -> None:
    rng = np.random.default_rng(0)
    logits, label = rng.standard_normal((200, 8)), rng.integers(0, 8, 200)
    order = np.argsort(-logits, axis=1)
    accumulator = ClassificationAccumulator(8)
    accumulator.update(paddle.to_tensor(logits[:120]), {"label": paddle.to_tensor(label[:120])})
    accumulator.update([logits[120:]], {"label": label[120:, None]})
    result = accumulator.result()
    assert result.images == 200
    assert result.values["Top-1"] == pytest.approx((order[:, 0] == label).mean())
    assert result.values["Top-5"] == pytest.approx((order[:, :5] == label[:, None]).any(axis=1).mean())
    own = label == 3
    assert result.per_class["3"] == pytest.approx((order[own, 0] == 3).mean())


def test_equal_scores_do_not_all_win() -> None:
    np.testing.assert_array_equal(rank_of_label(np.zeros((4, 4)), np.arange(4)), np.arange(4))


def test_a_class_without_images_is_none_and_no_image_an_error() -> None:
    accumulator = ClassificationAccumulator(3, ["shirt", "shoe", "bag"])
    with pytest.raises(UserError, match="no image"):
        accumulator.result()
    accumulator.update(np.eye(3)[[0, 2]], {"label": np.array([0, 1])})
    assert accumulator.result().per_class == {"shirt": 1.0, "shoe": 0.0, "bag": None}
    with pytest.raises(UserError, match="from 0 to 3"):
        accumulator.update(np.eye(3), {"label": np.array([0, 1, 3])})


def pairs(scores: np.ndarray, positive: np.ndarray) -> float:
    return mannwhitneyu(scores[positive], scores[~positive]).statistic / (positive.sum() * (~positive).sum())


@pytest.mark.parametrize("scale", [0.1, 3.0, 60.0])
@pytest.mark.parametrize("classes", [2, 4])
def test_auc_equals_counting_pairs(classes: int, scale: float) -> None:
    rng = np.random.default_rng(1)
    label = rng.integers(0, classes, (3, 20, 30))
    logits = rng.standard_normal((3, classes, 20, 30)) + 1.5 * np.moveaxis(np.eye(classes)[label], -1, 1)
    logits = (logits * scale).astype(np.float32)
    label[:, 0] = 255
    accumulator = AucAccumulator(classes)
    for i in range(3):
        accumulator.update([paddle.to_tensor(logits[i : i + 1])], {"label": label[i : i + 1]})
    known = label != 255
    rows = np.moveaxis(logits.astype(np.float64), 1, -1)[known]
    tested = [1] if classes == 2 else range(classes)
    scores = [rows[:, c] - logsumexp(np.delete(rows, c, axis=1), axis=1) for c in tested]
    expected = np.mean([pairs(score, label[known] == c) for score, c in zip(scores, tested)])
    if scale < 10:  # a softmax says the same as long as it does not round to 1
        probability = softmax(rows, axis=1)
        assert expected == pytest.approx(np.mean([pairs(probability[:, c], label[known] == c) for c in tested]))
    assert 0.6 < expected < 0.99
    assert accumulator.result().score == pytest.approx(expected, abs=1e-3)


def test_bins_keep_the_order_of_scores() -> None:
    scores = np.sort(np.concatenate([np.linspace(-90, 90, 999), np.geomspace(1e-9, 1, 50), [0.0]]))
    bins = score_bins(scores)
    assert (np.diff(bins) >= 0).all() and bins.min() >= 0 and bins.max() < 1 << 16
    assert len(np.unique(bins)) > 500


def test_auc_of_one_single_class_is_refused() -> None:
    accumulator = AucAccumulator(2)
    accumulator.update(np.zeros((1, 2, 4, 4), np.float32), {"label": np.ones((1, 4, 4), int)})
    with pytest.raises(UserError, match="one class"):
        accumulator.result()
    with pytest.raises(UserError, match="without scores"):
        accumulator.update(np.zeros((1, 4, 4), np.int32), {"label": np.ones((1, 4, 4), int)})
